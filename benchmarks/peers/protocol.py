"""How a peer is spoken to: a job on the first line, then one case a line; JSON both ways.

Imported by the scripts beside it, which run in virtual environments of their own and know nothing
of this project.

Job: base (model directory), gguf (the base for llama.cpp), adapters and gguf_adapters (paths, in
one order), openvino (the converted base), concurrency, max_length, dtype (for those that compute in
floating point), lora (whether adapters will be asked for). Answer: {"ready": what was chosen}.

Case: prompts (texts), adapters (an index into the job's or null, for each prompt), new_tokens,
concurrency. Answer: {"seconds", "output_tokens"}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Case = dict[str, Any]
Job = dict[str, Any]
Run = Callable[[Case], int]
"""Answers every prompt of a case and gives the number of output tokens."""


def serve(make: Callable[[Job], tuple[str, Run]]) -> None:
    """`make` loads the engine and gives its settings in words, and what runs a case."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    settings, run = make(json.loads(sys.stdin.readline()))
    print(json.dumps({"ready": settings}), file=answers, flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        start = time.perf_counter()
        num_tokens = run(case)
        seconds = time.perf_counter() - start
        found = {"seconds": seconds, "output_tokens": num_tokens}
        print(json.dumps(found), file=answers, flush=True)

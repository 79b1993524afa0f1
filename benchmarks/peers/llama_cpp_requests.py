"""A case as requests to llama.cpp's server, which names adapters by their places in the job.

Imported by the engine scripts beside it, see protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from protocol import Case, Job, Run

Complete = Callable[[dict[str, Any]], dict[str, Any]]
"""The answer to a body of /v1/completions."""


def runner(job: Job, complete: Complete) -> Run:
    def run(case: Case) -> int:
        def ask(index: int) -> int:
            body = {
                "prompt": case["prompts"][index],
                "n_predict": case["new_tokens"],
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": False,
                "lora": [
                    {"id": i, "scale": float(i == case["adapters"][index])}
                    for i in range(len(job["gguf_adapters"]))
                ],
            }
            return int(complete(body)["usage"]["completion_tokens"])

        with ThreadPoolExecutor(case["concurrency"]) as pool:
            return sum(pool.map(ask, range(len(case["prompts"]))))

    return run

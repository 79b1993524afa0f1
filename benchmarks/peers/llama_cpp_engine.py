"""llama.cpp's server in process (xllamacpp): Q4_0 base, adapters named by each request."""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import version
from typing import Any

import xllamacpp
from llama_cpp_requests import runner
from protocol import Job, Run, serve


def make(job: Job) -> tuple[str, Run]:
    params = xllamacpp.CommonParams()
    params.model.path = job["gguf"]
    params.n_parallel = job["concurrency"]
    params.n_ctx = job["concurrency"] * job["max_length"]
    params.n_batch = 2048
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in job["gguf_adapters"]
    ]
    params.lora_init_without_apply = True
    params.cache_prompt = False
    engine = xllamacpp.Server(params)

    def complete(body: dict[str, Any]) -> dict[str, Any]:
        answer = engine.handle_completions(body)
        found: dict[str, Any] = json.loads(answer) if isinstance(answer, str | bytes) else answer
        return found

    features = " ".join(re.findall(r"(AVX\w*) = 1", xllamacpp.get_system_info()))
    settings = f"llama.cpp's wheel (xllamacpp {version('xllamacpp')}), Q4_0, {features}"
    return settings, runner(job, complete)


if __name__ == "__main__":
    serve(make)

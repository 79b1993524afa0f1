"""llama.cpp's server in process (xllamacpp): Q4_0 base, adapters named by each request."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import xllamacpp
from protocol import Case, Job, Run, serve


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

    def run(case: Case) -> int:
        def ask(index: int) -> int:
            body: dict[str, Any] = {
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
            answer = engine.handle_completions(body)
            answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
            return int(answer["usage"]["completion_tokens"])

        with ThreadPoolExecutor(case["concurrency"]) as pool:
            return sum(pool.map(ask, range(len(case["prompts"]))))

    features = re.findall(r"(AVX\w*) = 1", xllamacpp.get_system_info())
    return f"llama.cpp (xllamacpp {version('xllamacpp')}), Q4_0, {' '.join(features)}", run


if __name__ == "__main__":
    serve(make)

"""OpenVINO GenAI: int8 weights, continuous batching; one adapter set a batch.

It cannot mix adapters in one batch: a mix runs as one batch for each adapter, one after the other.
"""

from __future__ import annotations

import openvino_genai
from protocol import Case, Job, Run, serve


def make(job: Job) -> tuple[str, Run]:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = job["concurrency"]
    scheduler.max_num_batched_tokens = 2048
    scheduler.cache_size = 2
    scheduler.enable_prefix_caching = False
    options = {}
    adapters = [
        openvino_genai.Adapter(f"{path}/adapter_model.safetensors") for path in job["adapters"]
    ]
    if job["lora"]:
        known = openvino_genai.AdapterConfig()
        for adapter in adapters:
            known.add(adapter)
        options["adapters"] = known
    engine = openvino_genai.LLMPipeline(
        job["openvino"], "CPU", scheduler_config=scheduler, **options
    )

    def run(case: Case) -> int:
        groups: dict[int | None, list[str]] = {}
        for prompt, index in zip(case["prompts"], case["adapters"], strict=True):
            groups.setdefault(index, []).append(prompt)
        total = 0
        for index, prompts in groups.items():
            config = openvino_genai.GenerationConfig()
            config.max_new_tokens = config.min_new_tokens = case["new_tokens"]
            config.ignore_eos = True
            config.do_sample = False
            config.apply_chat_template = False
            if job["lora"]:
                chosen = openvino_genai.AdapterConfig()
                if index is not None:
                    chosen.add(adapters[index])
                config.adapters = chosen
            answers = engine.generate(prompts, config)
            total += answers.perf_metrics.get_num_generated_tokens()
        return total

    return f"OpenVINO GenAI {openvino_genai.__version__}, int8 weights", run


if __name__ == "__main__":
    serve(make)

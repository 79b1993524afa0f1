"""A plain loop: transformers, PEFT, AdamW and autocast to the job's type; padded batches."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from training_protocol import (
    Job,
    answer,
    autocast_for,
    optimizer_for,
    padded,
    validation_loss,
)
from transformers import AutoModelForCausalLM


def train(job: Job) -> dict[str, Any]:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(job["base"], dtype=getattr(torch, job["dtype"]))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=job["r"],
        lora_alpha=job["lora_alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
    )
    model = get_peft_model(base, config)
    optimizer, schedule = optimizer_for(job, model)
    autocast = autocast_for(job)
    first = validation_loss(model, job["validation"], autocast)
    model.train()
    start = time.perf_counter()
    for batch in job["batches"]:
        with autocast():
            loss = model(**padded(batch), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), job["max_grad_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return {
        "settings": f"transformers {version('transformers')}, PEFT {version('peft')}",
        "train_s": seconds,
        "first_loss": first,
        "last_loss": validation_loss(model, job["validation"], autocast),
    }


if __name__ == "__main__":
    answer(train)

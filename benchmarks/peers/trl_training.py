"""TRL's SFTTrainer with PEFT and autocast to the job's type, without gradient checkpointing, which
would compute everything twice; the rows are tokenized already and stand in the order given."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from training_protocol import Job, answer, autocast_for, optimizer_for, validation_loss
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def train(job: Job) -> dict[str, Any]:
    rows = [
        {"input_ids": row["ids"], "labels": row["labels"]}
        for batch in job["batches"] or [job["validation"]]
        for row in batch
    ]
    with tempfile.TemporaryDirectory() as directory:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(
                job["base"], dtype=getattr(torch, job["dtype"])
            ),
            args=_arguments(job, directory),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(job["base"]),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM",
                r=job["r"],
                lora_alpha=job["lora_alpha"],
                lora_dropout=0.0,
                target_modules="all-linear",
            ),
        )
        trainer.optimizer, trainer.lr_scheduler = optimizer_for(job, trainer.model)
        autocast = autocast_for(job)
        first = validation_loss(trainer.model, job["validation"], autocast)
        seconds = 0.0 if job["exact"] else trainer.train().metrics["train_runtime"]
        return {
            "settings": f"TRL {version('trl')}, transformers {version('transformers')}",
            "train_s": seconds,
            "first_loss": first,
            "last_loss": validation_loss(trainer.model, job["validation"], autocast),
        }


def _arguments(job: Job, directory: str) -> SFTConfig:
    return SFTConfig(
        output_dir=directory,
        use_cpu=True,
        bf16=job["products"] == "bfloat16",
        gradient_checkpointing=False,
        per_device_train_batch_size=job["batch_size"],
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        max_grad_norm=job["max_grad_norm"],
        max_length=None,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
        seed=0,
    )


if __name__ == "__main__":
    answer(train)

"""What a trainer is given and what it answers: one JSON object each way.

Imported by the scripts beside it, which run in virtual environments of their own and know nothing
of this project.

Job: base (model directory), batches (of rows, in the order they are trained on), validation (rows),
batch_size, r, lora_alpha, rates (the learning rate of each step), max_grad_norm, dtype (of the
peers' base), products (their type), exact (float32 throughout, and only the first loss is asked
for). A row is `ids` and `labels`, -100 where nothing is learnt. Answer: settings (in words),
num_tokens, train_s, first_loss, last_loss (validation before and after, a mean over supervised
tokens), peak_bytes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn import functional

Job = dict[str, Any]
Row = dict[str, list[int]]
Autocast = Callable[[], AbstractContextManager[Any]]
PAD = 2
IGNORED = -100
VALIDATION_ROWS = 16


def answer(train: Callable[[Job], dict[str, Any]]) -> None:
    """`train` does the job and gives all of the answer but what is counted here."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    job = json.loads(sys.stdin.readline())
    found = train(job)
    found["num_tokens"] = sum(len(row["ids"]) for batch in job["batches"] for row in batch)
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found), file=answers, flush=True)


def autocast_for(job: Job) -> Autocast:
    if job["products"] == "float32":
        return contextlib.nullcontext
    return functools.partial(torch.autocast, "cpu", torch.bfloat16)


def optimizer_for(job: Job, model: Any) -> tuple[Any, Any]:
    """AdamW over what is trainable, and the job's rates."""
    weights = [p for p in model.parameters() if p.requires_grad]
    adamw = torch.optim.AdamW(weights, lr=1.0, weight_decay=0.0, fused=True)
    rates = [*job["rates"], 0.0]  # a scheduler asks for one more than there are steps
    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, rates.__getitem__)


def padded(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    length = max(len(row["ids"]) for row in rows)

    def fill(name: str, value: int) -> torch.Tensor:
        return torch.tensor([row[name] + [value] * (length - len(row[name])) for row in rows])

    mask = [[1] * len(row["ids"]) + [0] * (length - len(row["ids"])) for row in rows]
    return {
        "input_ids": fill("ids", PAD),
        "labels": fill("labels", IGNORED),
        "attention_mask": torch.tensor(mask),
    }


@torch.no_grad()
def validation_loss(model: Any, rows: Sequence[Row], autocast: Autocast) -> float:
    """The mean over supervised tokens of float32 cross-entropy."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in _in_batches(rows):
        inputs = padded(batch)
        wanted = inputs.pop("labels")[:, 1:]
        with autocast():
            logits = model(**inputs).logits[:, :-1].float()
        total += functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
        count += int((wanted != IGNORED).sum())
    model.train(was_training)
    return total / count


def _in_batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    near = sorted(rows, key=lambda row: len(row["ids"]))
    for start in range(0, len(near), VALIDATION_ROWS):
        yield near[start : start + VALIDATION_ROWS]

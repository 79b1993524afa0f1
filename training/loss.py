"""The loss of a base with LoRA layers on answers, and its gradient. Knows no file, no schedule.

The LoRA weights beside a bfloat16 base are bfloat16 too, so that no layer casts; their float32
originals belong to the optimiser.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from torch import nn

from hotswap.serving.errors import NotServable
from hotswap.training.batches import TrainingBatch
from hotswap.training.packed.choice import packed

# Eager attention is faster than the fused CPU kernels on short rows (their backward pass is slow)
# but holds (heads, length, length) for every layer and row.
_EAGER_UP_TO = 128
# Logits are made for this many tokens at a time: 256 × 49,152 float32 words are 50 MB.
LOGIT_CHUNK = 256
# Config fields of architectures that change logits behind the head, which this loss leaves out.
_LOGIT_FIELDS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over supervised tokens. `loss_sum` is in nats; `correct` counts right argmaxes."""

    loss_sum: float = 0.0
    correct: int = 0
    num_supervised: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.loss_sum + other.loss_sum,
            self.correct + other.correct,
            self.num_supervised + other.num_supervised,
        )

    @property
    def loss(self) -> float:
        """Mean over supervised tokens, each weighted alike."""
        return self.loss_sum / max(self.num_supervised, 1)

    @property
    def token_accuracy(self) -> float:
        """The fraction of supervised tokens that are the model's first choice, given the truth
        before them."""
        return self.correct / max(self.num_supervised, 1)


def attention_for(longest_row: int) -> str:
    return "eager" if longest_row <= _EAGER_UP_TO else "sdpa"


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def train_pass(model: nn.Module, batch: TrainingBatch, num_supervised: int) -> Tally:
    """Add to every trainable parameter's `.grad` the gradient of this pass's share of the loss.

    The share is the sum over the pass divided by `num_supervised`, the supervised tokens of the
    whole effective batch: shares add up to the mean over the batch, however it is cut.
    """
    hidden = answer_states(model, batch)
    leaf = hidden.detach().requires_grad_()
    tally = Tally()
    for loss_sum, correct, count in _losses(model, leaf, batch.targets):
        torch.autograd.backward(loss_sum / num_supervised)
        tally += Tally(loss_sum.item(), correct, count)
    torch.autograd.backward(hidden, leaf.grad)
    return tally


@torch.no_grad()
def measure(model: nn.Module, batch: TrainingBatch) -> Tally:
    hidden = answer_states(model, batch)
    return sum(
        (Tally(s.item(), c, n) for s, c, n in _losses(model, hidden, batch.targets)), Tally()
    )


def adapter_tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """A copy of the LoRA weights under PEFT's file names, exactly as the last pass used them."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def answer_states(model: nn.Module, batch: TrainingBatch) -> torch.Tensor:
    """The last hidden states that predict supervised tokens, (num_supervised, hidden)."""
    if (fast := packed(model)) is not None:
        return fast.answer_states(batch)
    causal = _causal(model)
    device = causal.device
    states = causal.base_model(
        input_ids=batch.ids.to(device), use_cache=False
    ).last_hidden_state  # (rows, length, hidden)
    selected: torch.Tensor = states[batch.row_index.to(device), batch.position.to(device)]
    return selected


def _causal(model: nn.Module) -> Any:
    """transformers' model: without LoRA layers it is not inside of one of PEFT's."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _losses(
    model: nn.Module, hidden: torch.Tensor, targets: torch.Tensor
) -> Iterator[tuple[torch.Tensor, int, int]]:
    """Summed float32 cross-entropy, right argmaxes and token count, chunk by chunk."""
    causal = _causal(model)
    head = causal.get_output_embeddings()
    for states, wanted in zip(
        torch.split(hidden, LOGIT_CHUNK),
        torch.split(targets.to(hidden.device), LOGIT_CHUNK),
        strict=True,
    ):
        logits = head(states).float()  # (chunk, vocabulary)
        correct = int((logits.argmax(-1) == wanted).sum())
        yield (
            torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"),
            correct,
            len(wanted),
        )


def refuse_logit_changes(model: Any) -> None:
    for field in _LOGIT_FIELDS:
        if getattr(model.config, field, None) not in (None, 1, 1.0):
            raise NotServable(
                f"the base's config sets {field}; architectures that change logits behind the head"
                " are not supported"
            )

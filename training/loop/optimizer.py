"""AdamW on float32 LoRA weights, gradient clipping and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hotswap.training.spec import TrainingSpec

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def learning_rate(spec: TrainingSpec, step: int, num_steps: int) -> float:
    """The rate of step 1 … num_steps: linear warm-up, then cosine, linear or no decay.

    After warm-up over w steps, with p = (step - 1 - w) / (num_steps - w): cosine is
    rate · (1 + cos(π p)) / 2 (Loshchilov & Hutter 2017, without restarts), linear rate · (1 - p).
    """
    warmup = math.ceil(num_steps * spec.warmup_ratio)
    if step <= warmup:
        return spec.learning_rate * step / warmup
    progress = (step - 1 - warmup) / max(num_steps - warmup, 1)
    if spec.schedule == "cosine":
        return spec.learning_rate * (1 + math.cos(math.pi * progress)) / 2
    return spec.learning_rate * (1 - progress if spec.schedule == "linear" else 1)


class MasterWeights:
    """The float32 originals of a model's trainable parameters, which the optimiser moves.

    Invariant: between steps each parameter is its original rounded to the parameter's dtype.
    Gradients are gathered in float32, so that many passes lose nothing to rounding of the sum. A
    parameter learns at the step's rate times its factor.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        masters: Sequence[torch.Tensor],
        spec: TrainingSpec,
        rate_factors: Sequence[float] | None = None,
    ) -> None:
        self._parameters = list(parameters)
        self._masters = list(masters)
        self._max_grad_norm = spec.max_grad_norm
        factors = rate_factors if rate_factors is not None else [1.0] * len(self._masters)
        self._adamw = torch.optim.AdamW(
            _groups(self._masters, factors),
            lr=spec.learning_rate,
            weight_decay=spec.weight_decay,
            fused=True,
        )

    def gather(self) -> None:
        """Move the parameters' gradients of one pass into the float32 sum."""
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            if parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad += parameter.grad
            parameter.grad = None

    @property
    def gradients(self) -> list[torch.Tensor]:
        return [m.grad if m.grad is not None else torch.zeros_like(m) for m in self._masters]

    def exchange(self, add: Callable[[Sequence[torch.Tensor]], None]) -> None:
        """Let `add` put the sums over all processes into the gathered gradients."""
        for master in self._masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        add(self.gradients)

    def state(self) -> dict[str, torch.Tensor]:
        """The originals and AdamW's moments, not copied; valid until the next step."""
        tensors = {f"{index}.master": master for index, master in enumerate(self._masters)}
        for index, master in enumerate(self._masters):
            for name, value in self._adamw.state[master].items():
                tensors[f"{index}.{name}"] = value
        return tensors

    @torch.no_grad()
    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Be as the one that gave `state`; it must have had parameters of the same shapes."""
        for index, master in enumerate(self._masters):
            master.copy_(state[f"{index}.master"])
            moments = {
                name: state[f"{index}.{name}"].to(master.device, copy=True)
                for name in _MOMENTS
                if f"{index}.{name}" in state
            }
            if moments:
                self._adamw.state[master] = moments
        self._round()

    @torch.no_grad()
    def step(self, rate: float) -> float:
        """One AdamW step at this rate; gives the gradient's 2-norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self._masters, self._max_grad_norm)
        for group in self._adamw.param_groups:
            group["lr"] = rate * group["rate_factor"]
        self._adamw.step()
        self._adamw.zero_grad()
        self._round()
        return float(norm)

    def _round(self) -> None:
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            parameter.copy_(master)


def _groups(masters: Sequence[torch.Tensor], factors: Sequence[float]) -> list[dict[str, Any]]:
    """AdamW's parameter groups, one for each rate."""
    groups: dict[float, list[torch.Tensor]] = {}
    for master, factor in zip(masters, factors, strict=True):
        groups.setdefault(factor, []).append(master)
    return [{"params": params, "rate_factor": factor} for factor, params in groups.items()]

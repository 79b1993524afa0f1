"""Many adapters beside one linear layer: reading their weights, keeping them in slots, adding
their effect to the rows that asked for it.

Never decides what runs. Slot 0 is never used: a row without an adapter is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from registry.bundle import WEIGHTS_FILE
from registry.errors import NotServable
from registry.manifest import LoraShape

_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """One adapter in host memory: module → (A (r, in), B (out, r)), B already scaled."""

    modules: dict[str, tuple[Tensor, Tensor]]

    @property
    def size_bytes(self) -> int:
        return sum(a.nbytes + b.nbytes for a, b in self.modules.values())


def read_lora_weights(directory: Path, shape: LoraShape, dtype: torch.dtype) -> LoraWeights:
    """Read a verified PEFT directory, folding each module's scaling into its B."""
    modules = {}
    with safe_open(directory / WEIGHTS_FILE, framework="pt") as tensors:
        for module in shape.modules:
            a = tensors.get_tensor(f"{_PREFIX}{module}.lora_A.weight")
            b = tensors.get_tensor(f"{_PREFIX}{module}.lora_B.weight")
            scaled = b.float() * lora_scaling(shape, module)
            modules[module] = (a.to(dtype), scaled.to(dtype))
    return LoraWeights(modules)


def lora_scaling(shape: LoraShape, module: str) -> float:
    """alpha / r (LoRA, Hu et al. 2021) or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023).

    A pattern's key is matched like PEFT does: as a regular expression on the end of the name.
    """

    def matching(pattern: dict[str, int] | dict[str, float], default: float) -> float:
        for key, value in pattern.items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default

    r = matching(shape.rank_pattern, shape.r)
    alpha = matching(shape.alpha_pattern, shape.lora_alpha)
    return alpha / r**0.5 if shape.kind == "rslora" else alpha / r


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """Which rows of a step belong to which slot; made once a step, used by every layer.

    Rows `0` to `len(decode_slots)` are one decoding token each. `segments` are the prompts'
    stretches (start row, end row, slot).
    """

    decode_slots: Tensor | None  # (num_decode_rows,) int64
    segments: tuple[tuple[int, int, int], ...]

    def __bool__(self) -> bool:
        return self.decode_slots is not None or bool(self.segments)


class LoraSlots:
    """The slots of one (possibly fused) linear layer.

    A fused layer has several parts side by side in its output (q, k, v); their A matrices are
    side by side too, so that one product shrinks for all parts. Unused columns are zero.
    """

    def __init__(
        self,
        num_in: int,
        parts: Sequence[tuple[str, int]],
        *,
        num_slots: int,
        max_rank: int,
        dtype: torch.dtype,
    ) -> None:
        """`parts` are (module name, width of its output) in order of their columns."""
        self._max_rank = max_rank
        self._shrink = torch.zeros(num_slots + 1, num_in, len(parts) * max_rank, dtype=dtype)
        self._expand = [
            torch.zeros(num_slots + 1, max_rank, num_out, dtype=dtype) for _, num_out in parts
        ]
        self._columns: list[slice] = []
        start = 0
        for _, num_out in parts:
            self._columns.append(slice(start, start + num_out))
            start += num_out
        self.part_of = {module: part for part, (module, _) in enumerate(parts)}

    def load(self, slot: int, weights: LoraWeights) -> None:
        """Overwrite a slot; parts the adapter does not have become zero.

        Raises NotServable when a matrix does not have the shape of the base's layer.
        """
        self._shrink[slot].zero_()
        for module, part in self.part_of.items():
            expand = self._expand[part][slot].zero_()
            if module not in weights.modules:
                continue
            a, b = weights.modules[module]
            if a.shape[1] != self._shrink.shape[1] or b.shape[0] != expand.shape[1]:
                raise NotServable(
                    f"adapter module {module} maps {a.shape[1]} to {b.shape[0]} features; "
                    f"the base's maps {self._shrink.shape[1]} to {expand.shape[1]}"
                )
            r = a.shape[0]
            start = part * self._max_rank
            self._shrink[slot, :, start : start + r] = a.T
            expand[:r] = b.T

    def add(self, plan: LoraPlan, x: Tensor, y: Tensor) -> None:
        """y += (x · A) · B in place, each row of x (num_tokens, in) with its own slot.

        Decoding rows are separate products of one row each, so that a row's bits do not depend
        on which rows share the step; a prompt's stretch is the same product alone or in a mix.
        """
        if plan.decode_slots is not None:
            num_rows = len(plan.decode_slots)
            rows = x[:num_rows, None].to(self._shrink.dtype)  # (num_rows, 1, in)
            low = torch.bmm(rows, self._shrink[plan.decode_slots])  # (num_rows, 1, parts * r)
            for part, columns in enumerate(self._columns):
                up = torch.bmm(low[..., self._ranks(part)], self._expand[part][plan.decode_slots])
                y[:num_rows, columns] += up[:, 0]
        for start, end, slot in plan.segments:
            low = x[start:end].to(self._shrink.dtype) @ self._shrink[slot]
            for part, columns in enumerate(self._columns):
                y[start:end, columns] += low[:, self._ranks(part)] @ self._expand[part][slot]

    def _ranks(self, part: int) -> slice:
        return slice(part * self._max_rank, (part + 1) * self._max_rank)

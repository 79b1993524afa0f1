"""Many adapters beside one linear layer: reading their weights, keeping them in slots, adding
their effect to the rows that asked for it.

Never decides what runs. Slot 0 is never used: a row without an adapter is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from registry.bundles.peft_config import PEFT_PREFIX, WEIGHTS_FILE
from registry.errors import NotServable
from registry.manifest import LoraShape, Probe


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """One adapter in host memory: module → (A (r, in), B (out, r)), B already scaled."""

    modules: dict[str, tuple[Tensor, Tensor]]
    probes: tuple[Probe, ...] = ()


def read_lora_weights(
    directory: Path, shape: LoraShape, dtype: torch.dtype, probes: tuple[Probe, ...] = ()
) -> LoraWeights:
    """Read a verified PEFT directory, folding each module's scaling into its B.

    Raises NotServable when a weight is not a finite number.
    """
    modules = {}
    with safe_open(directory / WEIGHTS_FILE, framework="pt") as tensors:
        for module in shape.modules:
            a = tensors.get_tensor(f"{PEFT_PREFIX}{module}.lora_A.weight")
            b = tensors.get_tensor(f"{PEFT_PREFIX}{module}.lora_B.weight")
            if not (a.isfinite().all() and b.isfinite().all()):
                raise NotServable(f"adapter module {module} holds NaN or infinite weights")
            scaled = b.float() * shape.scaling(module)
            modules[module] = (a.to(dtype), scaled.to(dtype))
    return LoraWeights(modules, probes)


TILE = 2
"""Rows of one slot that are multiplied together. Always this many, filled up with zeros: every
product then has the same shape, and a row's bits do not depend on how many rows share the step."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of decoding rows that one batched product serves without copying weights: one tile of
    each slot in a range, or several tiles of one slot."""

    slots: slice
    num_tiles: int
    sources: Tensor  # (num_tiles · TILE,) row of the step; num_rows stands for zeros
    rows: Tensor  # (num_used,) rows of the step that are served
    places: Tensor  # (num_used,) where each of them stands among the tiles
    is_whole: bool  # the tiles are the step's rows as they are: nothing to gather or scatter

    @classmethod
    def of(cls, slots: slice, tiles: Sequence[Sequence[int]], num_rows: int) -> Tiles:
        """`tiles` are at most TILE rows each, one tile after the other."""
        sources = [row for tile in tiles for row in [*tile, *[num_rows] * (TILE - len(tile))]]
        used = [(row, place) for place, row in enumerate(sources) if row < num_rows]
        return cls(
            slots=slots,
            num_tiles=len(tiles),
            sources=torch.tensor(sources),
            rows=torch.tensor([row for row, _ in used]),
            places=torch.tensor([place for _, place in used]),
            is_whole=sources == list(range(num_rows)),
        )

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (num_rows, in) → tiles (num_tiles, TILE, in)."""
        if not self.is_whole:
            rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])[self.sources]
        return rows.view(self.num_tiles, TILE, -1)

    def scatter_add(self, y: Tensor, columns: slice, tiled: Tensor) -> None:
        """y (num_tokens, out) += tiles (num_tiles, TILE, width), in place."""
        flat = tiled.flatten(0, 1)
        if self.is_whole:
            y[: len(flat), columns] += flat
        else:
            y[self.rows, columns] += flat[self.places]

    def weights(self, stack: Tensor) -> Tensor:
        """The slots' matrices (num_tiles, in, out), a view of `stack` (all slots, in, out)."""
        chosen = stack[self.slots]
        return chosen if len(chosen) == self.num_tiles else chosen.expand(self.num_tiles, -1, -1)


def tile_rows(row_slots: Sequence[int]) -> list[Tiles]:
    """Cut decoding rows `0, 1, …` with these slots into few batched products.

    As long as several slots have rows left, one tile of each goes into a product over the range
    of those slots; the last few slots get a product each.
    """
    num_rows = len(row_slots)
    rows_of: dict[int, list[int]] = {}
    for row, slot in enumerate(row_slots):
        rows_of.setdefault(slot, []).append(row)
    waiting = {
        slot: [rows[at : at + TILE] for at in range(0, len(rows), TILE)]
        for slot, rows in rows_of.items()
    }
    products = []
    while len(waiting) > 3:
        low, high = min(waiting), max(waiting)
        tiles = [waiting[slot].pop(0) if slot in waiting else [] for slot in range(low, high + 1)]
        products.append(Tiles.of(slice(low, high + 1), tiles, num_rows))
        waiting = {slot: tiles for slot, tiles in waiting.items() if tiles}
    for slot, tiles in waiting.items():
        products.append(Tiles.of(slice(slot, slot + 1), tiles, num_rows))
    return products


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """Which rows of a step belong to which slot; made once a step, used by every layer.

    Rows 0 to `num_decode_rows` are decoding rows with an adapter. `segments` are the prompts'
    stretches (start row, end row, slot).
    """

    num_decode_rows: int
    tiles: Sequence[Tiles]
    segments: Sequence[tuple[int, int, int]]

    @classmethod
    def of(cls, decode_slots: Sequence[int], segments: Sequence[tuple[int, int, int]]) -> LoraPlan:
        """`decode_slots` are the slots of the step's first rows."""
        return cls(len(decode_slots), tile_rows(decode_slots), segments)

    def __bool__(self) -> bool:
        return bool(self.tiles) or bool(self.segments)


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

        Decoding rows go through TILE-row products, a prompt's stretch through one of its own: a
        row's bits are the same alone and in a mix.
        """
        rows = x[: plan.num_decode_rows].to(self._shrink.dtype)
        for tiles in plan.tiles:
            low = torch.bmm(tiles.gather(rows), tiles.weights(self._shrink))
            for part, columns in enumerate(self._columns):  # low: (num_tiles, TILE, parts * r)
                up = torch.bmm(low[..., self._ranks(part)], tiles.weights(self._expand[part]))
                tiles.scatter_add(y, columns, up)
        for start, end, slot in plan.segments:
            low = x[start:end].to(self._shrink.dtype) @ self._shrink[slot]
            for part, columns in enumerate(self._columns):
                y[start:end, columns] += low[:, self._ranks(part)] @ self._expand[part][slot]

    def _ranks(self, part: int) -> slice:
        return slice(part * self._max_rank, (part + 1) * self._max_rank)

"""Many adapters beside one linear layer: reading their weights, keeping them in slots, adding
their effect to the rows that asked for it.

Never decides what runs. Slot 0 is never used: a row without an adapter is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from hotswap.registry.bundles.peft_config import MAGNITUDE, PEFT_PREFIX, WEIGHTS_FILE
from hotswap.registry.domain.manifest import LoraShape, Probe
from hotswap.serving.errors import NotServable

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LoraRoom:
    """How many adapters of what rank fit beside the base, and in what precision."""

    num_slots: int
    max_rank: int
    dtype: torch.dtype
    device: torch.device = CPU


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """One adapter in host memory: module → (A (r, in), B (out, r)), B already scaled.

    A DoRA adapter has a module's magnitude (out,) too, and once a model has prepared it, what
    `dora_factor` makes of it.
    """

    modules: dict[str, tuple[Tensor, Tensor]]
    probes: tuple[Probe, ...] = ()
    magnitudes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        tensors = [t for pair in self.modules.values() for t in pair]
        return sum(t.numel() * t.element_size() for t in [*tensors, *self.magnitudes.values()])

    def prepared(self, dtype: torch.dtype, factors: dict[str, Tensor]) -> LoraWeights:
        """With matrices of the slots' type, and what `dora_factor` made of the magnitudes."""
        modules = {name: (a.to(dtype), b.to(dtype)) for name, (a, b) in self.modules.items()}
        return replace(self, modules=modules, magnitudes=factors)


def read_lora_weights(
    directory: Path, shape: LoraShape, probes: tuple[Probe, ...] = ()
) -> LoraWeights:
    """Read a verified PEFT directory, folding each module's scaling into its B (in float32).

    Raises NotServable when a weight is not a finite number.
    """
    modules: dict[str, tuple[Tensor, Tensor]] = {}
    magnitudes: dict[str, Tensor] = {}
    with safe_open(directory / WEIGHTS_FILE, framework="pt") as tensors:
        for module in shape.modules:
            a = tensors.get_tensor(f"{PEFT_PREFIX}{module}.lora_A.weight")
            b = tensors.get_tensor(f"{PEFT_PREFIX}{module}.lora_B.weight")
            modules[module] = (a, b.float() * shape.scaling(module))
            if shape.is_dora:
                magnitudes[module] = tensors.get_tensor(f"{PEFT_PREFIX}{module}{MAGNITUDE}").float()
    for module in _not_finite(modules, magnitudes):
        raise NotServable(f"adapter module {module} holds NaN or infinite weights")
    return LoraWeights(modules, probes, magnitudes)


def _not_finite(
    modules: Mapping[str, tuple[Tensor, Tensor]], magnitudes: Mapping[str, Tensor]
) -> Iterator[str]:
    """The modules that hold a number that is not finite."""
    tensors = [(module, t) for module, pair in modules.items() for t in pair]
    tensors += magnitudes.items()
    # Sums show it, and are read faster; one may also be too large although all is finite.
    sums = torch.stack([tensor.sum(dtype=torch.float32) for _, tensor in tensors])
    for (module, tensor), is_finite in zip(tensors, sums.isfinite().tolist(), strict=True):
        if not is_finite and not tensor.isfinite().all():
            yield module


def dora_factor(weight: Tensor, a: Tensor, b: Tensor, magnitude: Tensor) -> Tensor:
    """What each output of W + B·A (out, in) is multiplied with: m / ‖W + B·A‖ of its row, B already
    scaled (DoRA, Liu et al. 2024)."""
    adapted = torch.addmm(weight.float(), b.float(), a.float())
    norm: Tensor = torch.linalg.vector_norm(adapted, dim=1)
    return magnitude / norm


def check_fit(module: str, a: Tensor, b: Tensor, num_in: int, num_out: int) -> None:
    """Raises NotServable when a module's matrices do not have the shape of the base's layer."""
    if a.shape[1] != num_in or b.shape[0] != num_out:
        raise NotServable(
            f"adapter module {module} maps {a.shape[1]} to {b.shape[0]} features; "
            f"the base's maps {num_in} to {num_out}"
        )


TILE_M = 2
"""Rows of one slot that are multiplied together. Always this many, filled up with zeros: every
product then has the same shape, and a row's bits do not depend on how many rows share the step."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of decoding rows that one batched product serves without copying weights: one tile of
    each slot in a range, or several tiles of one slot."""

    slots: slice
    num_tiles: int
    sources: Tensor  # (num_tiles · TILE_M,) row of the step; num_rows stands for zeros
    used: Sequence[tuple[int, int]]  # rows of the step that are served, and their places in tiles
    rows: Tensor  # (num_used,) those rows
    places: Tensor  # (num_used,) and those places
    is_whole: bool  # the tiles are the step's rows as they are: nothing to gather or scatter
    scales: Tensor | None  # (num_tiles, TILE_M, 1), each row's own factor; None: all are 1

    @classmethod
    def of(
        cls,
        slots: slice,
        tiles: Sequence[Sequence[int]],
        num_rows: int,
        scales: Mapping[int, float],
        device: torch.device,
    ) -> Tiles:
        """`tiles` are at most TILE_M rows each, one tile after the other. Rows whose factor is not
        1 have it in `scales`."""
        sources = [row for tile in tiles for row in [*tile, *[num_rows] * (TILE_M - len(tile))]]
        used = [(row, place) for place, row in enumerate(sources) if row < num_rows]
        return cls(
            slots=slots,
            num_tiles=len(tiles),
            sources=torch.tensor(sources, device=device),
            used=used,
            rows=torch.tensor([row for row, _ in used], device=device),
            places=torch.tensor([place for _, place in used], device=device),
            is_whole=sources == list(range(num_rows)),
            scales=(
                torch.tensor([scales.get(row, 1.0) for row in sources], device=device).view(
                    len(tiles), TILE_M, 1
                )
                if any(row in scales for row in sources)
                else None
            ),
        )

    def gather(self, rows: Tensor) -> Tensor:
        """Rows (num_rows, in) → tiles (num_tiles, TILE_M, in)."""
        if not self.is_whole:
            rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])[self.sources]
        return rows.view(self.num_tiles, TILE_M, -1)

    def scatter_add(self, y: Tensor, columns: slice, tiled: Tensor) -> None:
        """y (num_tokens, out) += tiles (num_tiles, TILE_M, width), in place."""
        flat = tiled.flatten(0, 1)
        if self.is_whole:
            y[: len(flat), columns] += flat
        else:
            y[self.rows, columns] += flat[self.places]

    def weights(self, stack: Tensor) -> Tensor:
        """The slots' matrices (num_tiles, in, out), a view of `stack` (all slots, in, out)."""
        chosen = stack[self.slots]
        return chosen if len(chosen) == self.num_tiles else chosen.expand(self.num_tiles, -1, -1)


def tile_rows(
    slot_of: Mapping[int, int],
    num_rows: int,
    scales: Mapping[int, float],
    device: torch.device,
) -> list[Tiles]:
    """Cut rows with these slots into few batched products.

    As long as several slots have rows left, one tile of each goes into a product over the range
    of those slots; the last few slots get a product each.
    """
    rows_of: dict[int, list[int]] = {}
    for row, slot in slot_of.items():
        rows_of.setdefault(slot, []).append(row)
    waiting = {
        slot: [rows[at : at + TILE_M] for at in range(0, len(rows), TILE_M)]
        for slot, rows in rows_of.items()
    }
    products = []
    while len(waiting) > 3:
        low, high = min(waiting), max(waiting)
        tiles = [waiting[slot].pop(0) if slot in waiting else [] for slot in range(low, high + 1)]
        products.append(Tiles.of(slice(low, high + 1), tiles, num_rows, scales, device))
        waiting = {slot: tiles for slot, tiles in waiting.items() if tiles}
    for slot, tiles in waiting.items():
        products.append(Tiles.of(slice(slot, slot + 1), tiles, num_rows, scales, device))
    return products


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """Which rows of a step belong to which slot; made once a step, used by every layer.

    Each row has at most one adapter here; rows that stack several are in several plans. `tiles`
    serve the step's first `num_tiled` rows, those alone in their segment; `stretches` are rows
    of longer segments (start, end, slot, scale).
    """

    num_tiled: int
    tiles: Sequence[Tiles]
    stretches: Sequence[tuple[int, int, int, float]]

    @classmethod
    def all_of(
        cls,
        segments: Sequence[tuple[int, int]],
        adapters: Sequence[tuple[int, int, int, float]],
        device: torch.device,
    ) -> list[LoraPlan]:
        """One plan, or as many as the most that any row stacks.

        `segments` are (start, end) rows, `adapters` (slot, start, end, scale).
        """
        depth: dict[int, int] = {}
        singles: list[dict[int, int]] = []
        scales: list[dict[int, float]] = []
        stretches: list[list[tuple[int, int, int, float]]] = []
        for slot, first, last, scale in adapters:
            for start, end in segments:
                start, end = max(start, first), min(end, last)
                if start >= end:
                    continue
                level = depth.get(start, 0)
                depth[start] = level + 1
                if level == len(singles):
                    singles.append({})
                    scales.append({})
                    stretches.append([])
                if end - start > 1:
                    stretches[level].append((start, end, slot, scale))
                    continue
                singles[level][start] = slot
                if scale != 1:
                    scales[level][start] = scale
        plans = []
        for slot_of, factors, stretched in zip(singles, scales, stretches, strict=True):
            num_tiled = max(slot_of, default=-1) + 1
            tiles = tile_rows(slot_of, num_tiled, factors, device)
            plans.append(cls(num_tiled, tiles, stretched))
        return plans


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
        device: torch.device,
    ) -> None:
        """`parts` are (module name, width of its output) in order of their columns."""
        self.num_in, self.device = num_in, device
        self._max_rank = max_rank
        self._shrink = torch.zeros(
            num_slots + 1, num_in, len(parts) * max_rank, dtype=dtype, device=device
        )
        self._expand = [
            torch.zeros(num_slots + 1, max_rank, num_out, dtype=dtype, device=device)
            for _, num_out in parts
        ]
        self._columns: list[slice] = []
        start = 0
        for _, num_out in parts:
            self._columns.append(slice(start, start + num_out))
            start += num_out
        self._factors: dict[int, Tensor] = {}  # slot → (out,), of DoRA adapters
        self.part_of = {module: part for part, (module, _) in enumerate(parts)}
        self.columns = {module: self._columns[part] for module, part in self.part_of.items()}

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
            check_fit(module, a, b, self._shrink.shape[1], expand.shape[1])
            r = a.shape[0]
            start = part * self._max_rank
            self._shrink[slot, :, start : start + r] = a.T
            expand[:r] = b.T
        self._factors.pop(slot, None)
        scaled = self.columns.keys() & weights.magnitudes.keys()
        if scaled:
            factor = self._factors[slot] = torch.ones(self._columns[-1].stop, device=self.device)
            for module in scaled:
                factor[self.columns[module]] = weights.magnitudes[module]

    def add(self, plan: LoraPlan, x: Tensor, y: Tensor) -> None:
        """y += (x · A) · B in place, each row of x (num_tokens, in) with its own slot.

        Single rows go through TILE_M-row products, a prompt's stretch through one of its own: a
        row's bits are the same alone and in a mix.
        """
        rows = x[: plan.num_tiled].to(self._shrink.dtype)
        for tiles in plan.tiles:
            low = torch.bmm(tiles.gather(rows), tiles.weights(self._shrink))
            if tiles.scales is not None:
                low *= tiles.scales
            for part, columns in enumerate(self._columns):  # low: (num_tiles, TILE_M, parts * r)
                up = torch.bmm(low[..., self._ranks(part)], tiles.weights(self._expand[part]))
                tiles.scatter_add(y, columns, up)
        for start, end, slot, scale in plan.stretches:
            low = (x[start:end].to(self._shrink.dtype) @ self._shrink[slot]) * scale
            for part, columns in enumerate(self._columns):
                y[start:end, columns] += low[:, self._ranks(part)] @ self._expand[part][slot]
        if self._factors:
            self._rescale(plan, y)

    def _rescale(self, plan: LoraPlan, y: Tensor) -> None:
        """Multiply the rows of DoRA adapters, after their B·A was added."""
        for tiles in plan.tiles:
            slots = range(tiles.slots.start, tiles.slots.stop)
            num_tiles = tiles.num_tiles // len(slots)
            for row, place in tiles.used:
                factor = self._factors.get(slots[place // TILE_M // num_tiles])
                if factor is not None:
                    y[row] *= factor
        for start, end, slot, _ in plan.stretches:
            if slot in self._factors:
                y[start:end] *= self._factors[slot]

    def _ranks(self, part: int) -> slice:
        return slice(part * self._max_rank, (part + 1) * self._max_rank)

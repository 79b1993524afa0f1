"""An adapter in the form that the native kernels read. Layers alike are packed together."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hotswap.serving.adapters.lora import LoraWeights, check_fit
from hotswap.serving.models.weights import FUSED, Shape
from hotswap.serving.native import layout
from hotswap.serving.native.layout import LINEARS, TILE_N
from hotswap.serving.native.memory import allocate, resident_size
from hotswap.serving.native.packing import pack_expand, pack_shrink, padded_ranks, rounded_up


@dataclass(frozen=True, slots=True)
class NativeAdapter:
    """One adapter, packed into one piece of memory that `linears` points into."""

    linears: ctypes.Array[layout.LoraLinearStruct]
    memory: Tensor
    num_ranks: int
    """The most of one of `linears`, in whole tiles."""

    @property
    def num_bytes(self) -> int:
        return resident_size(self.memory.numel() * self.memory.element_size()) + ctypes.sizeof(
            self.linears
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    """What `field` of some linears points to: memory (num_linears, …) bf16."""

    linears: Sequence[layout.LoraLinearStruct]
    field: str
    memory: Tensor


def pack_adapter(
    shape: Shape, adapter: LoraWeights, dora_factors: Callable[[int], Tensor]
) -> NativeAdapter:
    """`dora_factors` gives the factors (n,) of a linear by its number in the model.

    Raises NotServable when a matrix does not fit the base's layer.
    """
    linears = (layout.LoraLinearStruct * (shape.num_layers * len(LINEARS)))()
    pieces: list[_Piece] = []
    for whole, name in enumerate(LINEARS):
        num_in, widths = shape.widths(name)
        for modules in _alike(shape.num_layers, FUSED[name], adapter):
            numbers = [layer * len(LINEARS) + whole for layer in modules]
            alike = [linears[number] for number in numbers]
            each = list(modules.values())
            for num_out, same in zip(widths, zip(*each, strict=True), strict=True):
                for module in same:
                    if module in adapter.modules:
                        check_fit(module, *adapter.modules[module], num_in, num_out)
            pieces += _pack_alike(alike, each, adapter)
            if any(module in adapter.magnitudes for module in each[0]):
                factors = torch.stack([dora_factors(number) for number in numbers])
                pieces.append(_Piece(alike, "magnitude", factors.view(torch.bfloat16)))
    num_kept = sum(piece.memory.numel() for piece in pieces)
    memory = allocate(num_kept * torch.bfloat16.itemsize).view(torch.bfloat16)
    if pieces:
        torch.cat([piece.memory.flatten() for piece in pieces], out=memory)
    _point(pieces, memory)
    num_ranks = max(linear.num_ranks for linear in linears)
    return NativeAdapter(linears, memory, rounded_up(num_ranks, TILE_N))


def _alike(
    num_layers: int, parts: Sequence[str], adapter: LoraWeights
) -> list[dict[int, list[str]]]:
    """The layers with an effect on the fused `parts`, those with the same ranks and kinds
    together: layer → its modules."""
    layers_by_kind: dict[tuple[object, ...], dict[int, list[str]]] = {}
    for layer in range(num_layers):
        modules = [f"model.layers.{layer}.{part}" for part in parts]
        kind = tuple(
            (adapter.modules[m][0].shape[0], m in adapter.magnitudes)
            if m in adapter.modules
            else None
            for m in modules
        )
        if any(kind):
            layers_by_kind.setdefault(kind, {})[layer] = modules
    return list(layers_by_kind.values())


def _pack_alike(
    linears: Sequence[layout.LoraLinearStruct],
    modules: Sequence[Sequence[str]],
    adapter: LoraWeights,
) -> list[_Piece]:
    """Fill in the counts, and give the packed A (of all parts) and B (part by part)."""
    shrinks: list[Tensor] = []
    expands: list[Tensor] = []
    rank = start = 0
    for part, same in enumerate(zip(*modules, strict=True)):
        if same[0] not in adapter.modules:
            continue
        a = torch.stack([adapter.modules[module][0] for module in same])
        b = torch.stack([adapter.modules[module][1] for module in same])
        if odd := a.shape[1] % 2:
            a, b = functional.pad(a, (0, 0, 0, odd)), functional.pad(b, (0, odd))
        for linear in linears:
            linear.rank_start[part], linear.num_pairs[part] = rank, a.shape[1] // 2
            linear.b_start[part] = start
        rank, start = rank + a.shape[1], start + b[0].numel()
        shrinks.append(a)
        expands.append(pack_expand(b).flatten(1))
    num_ranks = padded_ranks(rank)
    for linear in linears:
        linear.num_ranks = num_ranks
    a = functional.pad(torch.cat(shrinks, 1), (0, 0, 0, num_ranks - rank))
    return [_Piece(linears, "a", pack_shrink(a)), _Piece(linears, "b", torch.cat(expands, 1))]


def _point(pieces: Sequence[_Piece], memory: Tensor) -> None:
    """Let each linear point to its own part of the pieces, which lie in `memory` in order."""
    address = memory.data_ptr()
    for piece in pieces:
        num_bytes = piece.memory[0].numel() * memory.element_size()
        for linear in piece.linears:
            setattr(linear, piece.field, address)
            address += num_bytes

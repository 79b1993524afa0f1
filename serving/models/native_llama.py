"""A Llama-family model on the native kernels: int8 or int4 weights, bf16 adapters, a
paged bf16 cache.

Adapters are used where they lie in host memory; a slot is a pointer. `llama`, its twin in PyTorch,
describes what is computed.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotswap.serving.adapters.lora import LoraRoom, LoraWeights, dora_factor
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.pages import PAGE, num_pages_of
from hotswap.serving.models.native_adapter import NativeAdapter, pack_adapter
from hotswap.serving.models.step import StepInput, StepOutput, reachable_positions, spare_pages_of
from hotswap.serving.models.weights import FUSED, BaseWeights, Shape, rotary_table
from hotswap.serving.native import layout
from hotswap.serving.native.layout import GROUP, LINEARS, MAX_PARTS, TILE_N
from hotswap.serving.native.library import (
    AMX,
    AVX2,
    AVX512_BF16,
    AVX512_VNNI,
    AVX_VNNI,
    PORTABLE,
    NativeEngine,
)
from hotswap.serving.native.memory import Arena, allocate
from hotswap.serving.native.packing import PackedWeights, rounded_up
from hotswap.serving.settings import MAX_STACKED

KEY_PRICE = {
    PORTABLE: 3.5,
    AVX2: 1.3,
    AVX_VNNI: 2.5,
    AVX512_VNNI: 2.2,
    AVX512_BF16: 3.0,
    AMX: 1.1,
}
"""How many times as long a product takes in attention as one with a weight, by instruction set:
measured with prompts of 512 tokens at positions 0 and 3,584 (`benchmarks/step.py`)."""


class NativeLlama:
    """Implements Model. Invariant: a row's logits depend on nothing but its sequence's tokens,
    its adapters and the processor's instruction set, to the last bit."""

    is_cut_invariant = True

    def __init__(
        self,
        base: BaseDirectory,
        room: LoraRoom,
        *,
        num_pages: int,
        max_rows: int,
        num_threads: int,
        bits: int = 8,
    ) -> None:
        """Weights of 8 or 4 `bits`; the head has 8.

        Raises BaseNotFound, KernelsMissing, OSError when the system gives no memory or threads, or
        ValueError when `unsupported` names a reason."""
        self.shape = shape = Shape.of(base)
        if reason := unsupported(shape):
            raise ValueError(reason)
        self.room = room
        self._bits = bits
        self._kept: list[Any] = []  # what the structs point to
        self._packed: list[PackedWeights] = []  # of every linear, the head last
        self._arena = Arena()
        weights = BaseWeights(base)
        rotary = rotary_table(base, reachable_positions(num_pages))
        self.max_positions = len(rotary)
        self.max_rows = max_rows
        self.modules = shape.modules
        self.spare_pages = spare_pages_of(num_pages, self.max_positions)
        embedding = weights.embedding
        if embedding.dtype != torch.bfloat16:
            embedding = embedding.float()
        self.num_embedded = len(embedding)
        layers = (layout.LayerStruct * shape.num_layers)()
        for index in range(shape.num_layers):
            self._fill_layer(layers[index], weights, index, self.spare_pages.stop)
        self._model = layout.ModelStruct(
            **{
                field: getattr(shape, field)
                for field in ("hidden", "num_heads", "num_kv_heads", "head_dim", "num_layers")
            },
            intermediate=shape.intermediate,
            max_rows=max_rows,
            max_keys=num_pages_of(self.max_positions) * PAGE,
            max_ranks=rounded_up(MAX_PARTS * rounded_up(room.max_rank, 2), TILE_N),
            vocab=shape.vocab,
            eps=shape.eps,
            **{f"embedding{8 * embedding.itemsize}": self._address(embedding)},
            # Both halves of a head turn by the same angles.
            rotary=self._address(rotary[..., : shape.head_dim // 2].float()),
            layers=layers,
            norm=self._address(weights["model.norm.weight"].float()),
            head=self._linear([weights.head], None, 8),
        )
        self._kept.append(layers)
        self._logits = torch.empty(0, self._model.head.n)
        self.engine = NativeEngine(
            self._model, max_entries=MAX_STACKED * max_rows, num_threads=num_threads
        )
        self.keys_per_row = shape.weights_per_key / KEY_PRICE[self.engine.level]
        self._slots: list[NativeAdapter | None] = [None] * (room.num_slots + 1)

    def _address(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _fill_layer(
        self, layer: layout.LayerStruct, weights: BaseWeights, index: int, num_pages: int
    ) -> None:
        shape, name = self.shape, f"model.layers.{index}"
        layer.attention_norm = self._address(weights[f"{name}.input_layernorm.weight"].float())
        layer.mlp_norm = self._address(weights[f"{name}.post_attention_layernorm.weight"].float())
        if shape.has_qk_norm:
            layer.q_norm = self._address(weights[f"{name}.self_attn.q_norm.weight"].float())
            layer.k_norm = self._address(weights[f"{name}.self_attn.k_norm.weight"].float())
        layer.window = shape.windows[index]
        for at, whole in enumerate(LINEARS):
            _, parts, bias = weights.fused(index, whole)
            layer.linear[at] = self._linear(parts, bias, self._bits)
        num_kept = num_pages * shape.num_kv_heads * 2 * shape.head_dim * PAGE
        layer.cache = self._address(allocate(num_kept * torch.bfloat16.itemsize))

    def _linear(self, parts: list[Tensor], bias: Tensor | None, bits: int) -> layout.LinearStruct:
        weights = PackedWeights.of(torch.cat(parts), bits)
        weights = replace(weights, memory=self._arena.copy(weights.memory))
        num_out, num_in = sum(len(part) for part in parts), parts[0].shape[1]
        self._packed.append(weights)
        linear = layout.LinearStruct(
            weight=self._address(weights.memory),
            scale=None if weights.scale is None else self._address(weights.scale),
            bias=None if bias is None else self._address(bias.float()),
            bits=bits,
            k=num_in,
            n=rounded_up(num_out, TILE_N),
            num_parts=len(parts),
        )
        end = 0
        for part, weight in enumerate(parts):
            end += rounded_up(weight.shape[0], TILE_N)
            linear.part_end[part] = end // TILE_N
        return linear

    def attach(self) -> None:
        """The kernels have threads of their own; PyTorch's would only be in their way."""
        torch.set_num_threads(1)

    def prepare(self, adapter: LoraWeights) -> NativeAdapter:
        return pack_adapter(self.shape, adapter, partial(self._dora_factors, adapter))

    def _dora_factors(self, adapter: LoraWeights, number: int) -> Tensor:
        """For each output (n,) of a fused layer, with the base's weights as they are served."""
        layer, whole = divmod(number, len(LINEARS))
        _, widths = self.shape.widths(LINEARS[whole])
        factors = torch.ones(sum(widths))
        end = 0
        for part, num in zip(FUSED[LINEARS[whole]], widths, strict=True):
            start, end = end, end + num
            if (module := f"model.layers.{layer}.{part}") in adapter.magnitudes:
                weight = self._packed[number].rows(start, end)
                magnitude = adapter.magnitudes[module]
                factors[start:end] = dora_factor(weight, *adapter.modules[module], magnitude)
        return factors

    def load(self, slot: int, prepared: NativeAdapter) -> None:
        self._slots[slot] = prepared

    @torch.inference_mode()
    def forward(self, step: StepInput) -> StepOutput:
        num_rows, num_wanted = len(step.token_ids), len(step.wanted)
        _require_room(step, self.max_rows, self.num_embedded)
        if num_wanted > len(self._logits):
            self._logits = torch.empty(num_wanted, self._model.head.n)
        token_ids = (ctypes.c_int32 * num_rows)(*step.token_ids)
        best = (ctypes.c_int32 * num_wanted)()
        wanted = (ctypes.c_int32 * num_wanted)(*step.wanted)
        adapters, shrunk_stride = self._adapters(step)
        self.engine.step(
            layout.StepStruct(
                token_ids=ctypes.addressof(token_ids),
                segments=_segments(step),
                adapters=adapters,
                wanted=ctypes.addressof(wanted),
                logits=self._logits.data_ptr(),
                best=ctypes.addressof(best),
                num_rows=num_rows,
                num_segments=len(step.segments),
                num_adapters=len(step.adapters),
                num_wanted=num_wanted,
                shrunk_stride=shrunk_stride,
            )
        )
        return StepOutput(self._logits[:num_wanted, : self.shape.vocab], list(best))

    def _adapters(self, step: StepInput) -> tuple[ctypes.Array[layout.AdapterRowsStruct], int]:
        """What the step's adapters do, and the most ranks of one of their layers."""
        adapters = (layout.AdapterRowsStruct * len(step.adapters))()
        num_entries = num_ranks = 0
        for to, rows in zip(adapters, step.adapters, strict=True):
            adapter = self._slots[rows.slot]
            assert adapter is not None, "a slot that was never loaded"
            to.linears, to.scale = adapter.linears, rows.scale
            to.start, to.end, to.first_entry = rows.start, rows.end, num_entries
            num_entries += rows.end - rows.start
            num_ranks = max(num_ranks, adapter.num_ranks)
        return adapters, num_ranks


def unsupported(shape: Shape) -> str | None:
    """Why the kernels cannot run a model of this shape; None when they can."""
    if shape.head_dim % 32 or shape.head_dim > 256:
        return f"head_dim is {shape.head_dim}; the kernels need a multiple of 32 up to 256"
    heads = shape.num_heads * shape.head_dim
    for name, k in (("hidden", shape.hidden), ("heads", heads), ("MLP", shape.intermediate)):
        if k % GROUP:
            return f"the {name} width is {k}; the kernels need multiples of {GROUP}"
    return None


def _require_room(step: StepInput, max_rows: int, num_embedded: int) -> None:
    """The kernels check no address: raises ValueError for a step that is too large, whose pages
    do not cover its rows, or with a token that the base does not have."""
    num_entries = sum(rows.end - rows.start for rows in step.adapters)
    if len(step.token_ids) > max_rows or num_entries > MAX_STACKED * max_rows:
        raise ValueError(
            f"{len(step.token_ids)} rows with {num_entries} adapters between them in one step; "
            f"at most {max_rows} rows and {MAX_STACKED} adapters for each"
        )
    if not 0 <= min(step.token_ids) <= max(step.token_ids) < num_embedded:
        raise ValueError(f"token ids {step.token_ids}; the base's are 0 to {num_embedded - 1}")
    for segment in step.segments:
        if len(segment.pages) < num_pages_of(segment.position + segment.end - segment.start):
            raise ValueError(f"{len(segment.pages)} pages do not cover the rows of {segment}")


def _segments(step: StepInput) -> ctypes.Array[layout.SegmentStruct]:
    segments = (layout.SegmentStruct * len(step.segments))()
    for to, segment in zip(segments, step.segments, strict=True):
        to.pages = segment.pages.buffer_info()[0]
        to.start, to.end, to.position = segment.start, segment.end, segment.position
    return segments

"""The Llama forward pass over packed tokens: quantized base, per-row adapters, per-sequence keys.

All tokens of a step lie in one matrix (num_tokens, hidden), decoding rows first, so the base's
matrices are read once a step. Attention runs sequence by sequence: a row's bits then depend on
its own sequence alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hotswap.serving.adapters.lora import (
    LoraPlan,
    LoraRoom,
    LoraSlots,
    LoraWeights,
    check_fit,
    dora_factor,
)
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.pages import PAGE, num_pages_of
from hotswap.serving.models.step import (
    Segment,
    StepInput,
    StepOutput,
    reachable_positions,
    spare_pages_of,
)
from hotswap.serving.models.weights import BaseWeights, Shape, rotary_table
from hotswap.serving.quantization import Linear, make_linear
from hotswap.serving.settings import Quantization


class _AdaptedLinear:
    """A base layer of one or more parts side by side, and the adapters' slots beside it."""

    def __init__(self, linear: Linear, bias: Tensor | None, slots: LoraSlots) -> None:
        self._linear = linear
        self._bias = bias
        self.slots = slots

    def __call__(self, x: Tensor, lora: Sequence[LoraPlan]) -> Tensor:
        y = self._linear(x)
        for plan in lora:
            self.slots.add(plan, x, y)
        return y if self._bias is None else y.add_(self._bias)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The base's (out, in) as it is used: what the layer makes of each feature alone."""
        return self._linear(torch.eye(self.slots.num_in, dtype=dtype, device=self.slots.device)).T


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Tensor
    qkv: _AdaptedLinear
    o: _AdaptedLinear
    mlp_norm: Tensor
    gate_up: _AdaptedLinear
    down: _AdaptedLinear
    qk_norm: Tensor | None  # (num_heads + num_kv_heads, head_dim)
    window: int

    @property
    def adapted(self) -> tuple[_AdaptedLinear, ...]:
        return self.qkv, self.o, self.gate_up, self.down


class Llama:
    """Implements Model in PyTorch, for every quantization, on the device of its room; the twin
    that the native kernels are tested against."""

    is_cut_invariant = False
    keys_per_row = math.inf

    def __init__(
        self,
        base: BaseDirectory,
        quantization: Quantization,
        dtype: torch.dtype,
        room: LoraRoom,
        *,
        num_pages: int,
        max_rows: int,
        num_threads: int = 1,
    ) -> None:
        """Raises BaseNotFound when the directory holds another kind of model."""
        self._shape = shape = Shape.of(base)
        self.room = room
        self._dtype, self._lora_dtype = dtype, room.dtype
        self._device = room.device
        self._num_threads = num_threads
        self.max_rows = max_rows
        self.modules = shape.modules
        rotary = rotary_table(base, reachable_positions(num_pages))
        self._rotary = self._own(rotary)  # (max positions, 2, head_dim)
        self.max_positions = len(self._rotary)
        self.spare_pages = spare_pages_of(num_pages, self.max_positions)
        # Not zeroed: pages that are never written cost no memory.
        self._cache = torch.empty(
            shape.num_layers,
            2,
            shape.num_kv_heads,
            self.spare_pages.stop * PAGE,
            shape.head_dim,
            dtype=dtype,
            device=self._device,
        )
        self._make_layers(BaseWeights(base), quantization, room)

    def _make_layers(
        self, weights: BaseWeights, quantization: Quantization, room: LoraRoom
    ) -> None:
        def adapted(layer: int, whole: str) -> _AdaptedLinear:
            names, parts, bias = weights.fused(layer, whole)
            weight = torch.cat(parts).to(self._device)
            return _AdaptedLinear(
                make_linear(weight, None, quantization, self._dtype),
                None if bias is None else self._own(bias),
                LoraSlots(
                    weight.shape[1],
                    [(name, part.shape[0]) for name, part in zip(names, parts, strict=True)],
                    num_slots=room.num_slots,
                    max_rank=room.max_rank,
                    dtype=room.dtype,
                    device=room.device,
                ),
            )

        self._layers = [
            _Layer(
                attention_norm=self._own(weights[f"model.layers.{index}.input_layernorm.weight"]),
                qkv=adapted(index, "qkv"),
                o=adapted(index, "o"),
                mlp_norm=self._own(
                    weights[f"model.layers.{index}.post_attention_layernorm.weight"]
                ),
                gate_up=adapted(index, "gate_up"),
                down=adapted(index, "down"),
                qk_norm=self._qk_norm(weights, index),
                window=self._shape.windows[index],
            )
            for index in range(self._shape.num_layers)
        ]
        self._norm = self._own(weights["model.norm.weight"])
        kept = torch.bfloat16 if quantization is not Quantization.NONE else self._dtype
        self._embedding = weights.embedding.to(self._device, kept)
        # bitsandbytes leaves the head alone; a 4-bit head would cost more than it saves.
        head_quantization = (
            Quantization.INT8
            if quantization in (Quantization.INT8, Quantization.INT4)
            else Quantization.NONE
        )
        head = weights.head.to(self._device)
        self._head = make_linear(head, None, head_quantization, self._dtype)

    def _own(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype)

    def _qk_norm(self, weights: BaseWeights, layer: int) -> Tensor | None:
        if not self._shape.has_qk_norm:
            return None
        name = f"model.layers.{layer}.self_attn"
        q, k = weights[f"{name}.q_norm.weight"], weights[f"{name}.k_norm.weight"]
        by_head = [q.expand(self._shape.num_heads, -1), k.expand(self._shape.num_kv_heads, -1)]
        return self._own(torch.cat(by_head))

    def attach(self) -> None:
        """The caller must be the only thread that computes on several cores: OpenMP keeps a pool
        for every such thread, and with more pools than cores each parallel loop waits in the
        kernel instead of spinning, which doubles the time of a step."""
        torch.set_num_threads(self._num_threads)

    def prepare(self, adapter: LoraWeights) -> LoraWeights:
        return adapter.prepared(self._lora_dtype, self._dora_factors(adapter))

    @torch.inference_mode()
    def _dora_factors(self, adapter: LoraWeights) -> dict[str, Tensor]:
        factors = {}
        if adapter.magnitudes:
            for linear in (linear for layer in self._layers for linear in layer.adapted):
                weight = linear.weight(self._dtype)
                for module, rows in linear.slots.columns.items():
                    if module in adapter.magnitudes:
                        a, b = adapter.modules[module]
                        check_fit(module, a, b, weight.shape[1], rows.stop - rows.start)
                        magnitude = adapter.magnitudes[module]
                        factors[module] = dora_factor(weight[rows].cpu(), a, b, magnitude)
        return factors

    @torch.inference_mode()
    def load(self, slot: int, prepared: LoraWeights) -> None:
        for layer in self._layers:
            for linear in layer.adapted:
                linear.slots.load(slot, prepared)

    @torch.inference_mode()
    def forward(self, step: StepInput) -> StepOutput:
        logits = self.logits(step)
        return StepOutput(logits.cpu(), logits.argmax(-1).tolist())

    def logits(self, step: StepInput) -> Tensor:
        """(num_wanted, vocab), on the model's device."""
        lora = LoraPlan.all_of(
            [(segment.start, segment.end) for segment in step.segments],
            [(rows.slot, rows.start, rows.end, rows.scale) for rows in step.adapters],
            self._device,
        )
        places = [_places(segment, self._device) for segment in step.segments]
        positions = self._indices(
            [s.position + row for s in step.segments for row in range(s.end - s.start)]
        )
        hidden = functional.embedding(self._indices(step.token_ids), self._embedding)
        hidden = hidden.to(self._dtype)
        rotary = self._rotary[positions]  # (num_tokens, 2, head_dim)
        for index, layer in enumerate(self._layers):
            normed = self._rms_norm(hidden, layer.attention_norm)
            qkv = layer.qkv(normed, lora)
            attended = self._attend(index, qkv, rotary, step.segments, places)
            hidden = hidden + layer.o(attended, lora)
            normed = self._rms_norm(hidden, layer.mlp_norm)
            gate, up = layer.gate_up(normed, lora).chunk(2, -1)
            hidden = hidden + layer.down(functional.silu(gate) * up, lora)
        return self._head(self._rms_norm(hidden[self._indices(step.wanted)], self._norm))

    def _indices(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """x / rms(x) · weight (Zhang and Sennrich 2019), the mean in fp32 as transformers does."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._shape.eps)
        return weight * scaled.to(self._dtype)

    def _attend(
        self,
        index: int,
        qkv: Tensor,
        rotary: Tensor,
        segments: Sequence[Segment],
        places: Sequence[Tensor],
    ) -> Tensor:
        """Attention of every row over its own sequence → (num_tokens, num_heads · head_dim)."""
        num_tokens, shape, layer = qkv.shape[0], self._shape, self._layers[index]
        heads = qkv.view(num_tokens, -1, shape.head_dim)
        num_rotated = shape.num_heads + shape.num_kv_heads
        rotated = heads[:, :num_rotated]
        if layer.qk_norm is not None:
            rotated = self._rms_norm(rotated, layer.qk_norm)
        rotated = _rotate(rotated, rotary)
        queries = rotated[:, : shape.num_heads].transpose(0, 1)  # (num_heads, num_tokens, head_dim)
        keys = rotated[:, shape.num_heads :].transpose(0, 1)
        values = heads[:, num_rotated:].transpose(0, 1)
        out = qkv.new_empty(num_tokens, shape.num_heads, shape.head_dim)
        cache = self._cache[index]  # (2, num_kv_heads, num places, head_dim)
        for segment, place in zip(segments, places, strict=True):
            rows = slice(segment.start, segment.end)
            length = segment.end - segment.start
            cache[0, :, place[segment.position :]] = keys[:, rows]
            cache[1, :, place[segment.position :]] = values[:, rows]
            # Keys that no row of the segment sees are left out.
            first = max(segment.position + 1 - layer.window, 0) if layer.window else 0
            known = cache[:, None, :, place[first:]]  # (2, 1, num_kv_heads, num_keys, head_dim)
            mask = _chunk_mask(segment.position - first, length, layer.window, self._device)
            attended = functional.scaled_dot_product_attention(
                queries[None, :, rows],
                known[0],
                known[1],
                attn_mask=mask,
                is_causal=mask is None and length > 1,
                enable_gqa=True,
            )  # (1, num_heads, length, head_dim)
            out[rows] = attended[0].transpose(0, 1)
        return out.view(num_tokens, -1)


def _places(segment: Segment, device: torch.device) -> Tensor:
    """Where the sequence's keys stand in the cache, up to the segment's end (end position,)."""
    end = segment.position + segment.end - segment.start
    pages = torch.tensor(segment.pages[: num_pages_of(end)], device=device)
    return (pages[:, None] * PAGE + torch.arange(PAGE, device=device)).flatten()[:end]


def _rotate(heads: Tensor, rotary: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) on (num_tokens, num_heads, head_dim)."""
    cos, sin = rotary[:, None, 0], rotary[:, None, 1]  # (num_tokens, 1, head_dim)
    first, second = heads.chunk(2, -1)
    return heads * cos + torch.cat([-second, first], -1) * sin


def _chunk_mask(num_before: int, length: int, window: int, device: torch.device) -> Tensor | None:
    """Which of the keys each of `length` queries sees (length, num_before + length), that of the
    first query standing behind `num_before`; None: all of them, or causal."""
    if length == 1 or (num_before == 0 and not 0 < window < length):
        return None
    seen = torch.ones(length, num_before + length, dtype=torch.bool, device=device)
    seen = seen.tril(num_before)
    return seen.triu(num_before + 1 - window) if window else seen

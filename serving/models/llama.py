"""The Llama forward pass over packed tokens: quantized base, per-row adapters, per-sequence keys.

All tokens of a step lie in one matrix (num_tokens, hidden), decoding rows first, so the base's
matrices are read once a step. Attention runs sequence by sequence: a row's bits then depend on
its own sequence alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from registry.errors import BaseNotFound
from serving.base_model import BaseDirectory
from serving.kv_cache import KvShape
from serving.lora import LoraPlan, LoraSlots
from serving.quantization import Linear, make_linear
from serving.settings import Quantization


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `start` to `end` of the step: consecutive tokens of one sequence from `position` on."""

    start: int
    end: int
    position: int
    block: Tensor  # (num_layers, 2, num_kv_heads, capacity, head_dim)


@dataclass(frozen=True, slots=True)
class StepInput:
    """One step's tokens, packed. `last_rows` are the rows whose logits are wanted."""

    token_ids: Tensor  # (num_tokens,) int64
    positions: Tensor  # (num_tokens,) int64
    segments: Sequence[Segment]
    last_rows: Tensor  # (num_wanted,) int64
    lora: LoraPlan


@dataclass(frozen=True, slots=True)
class LoraRoom:
    """How many adapters of what rank fit beside the base, and in what precision."""

    num_slots: int
    max_rank: int
    dtype: torch.dtype


class _AdaptedLinear:
    """A base layer of one or more parts side by side, and the adapters' slots beside it."""

    def __init__(self, linear: Linear, slots: LoraSlots) -> None:
        self._linear = linear
        self.slots = slots

    def __call__(self, x: Tensor, lora: LoraPlan) -> Tensor:
        y = self._linear(x)
        if lora:
            self.slots.add(lora, x, y)
        return y


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Tensor
    qkv: _AdaptedLinear
    o: _AdaptedLinear
    mlp_norm: Tensor
    gate_up: _AdaptedLinear
    down: _AdaptedLinear

    @property
    def adapted(self) -> tuple[_AdaptedLinear, ...]:
        return self.qkv, self.o, self.gate_up, self.down


class Llama:
    """A Llama-family decoder, read from a BaseDirectory and quantized while reading."""

    def __init__(
        self,
        base: BaseDirectory,
        quantization: Quantization,
        dtype: torch.dtype,
        room: LoraRoom,
    ) -> None:
        """Raises BaseNotFound when the directory holds another kind of model."""
        config = base.config
        _check_family(base)
        self.dtype = dtype
        self._num_heads: int = config["num_attention_heads"]
        self._num_kv_heads: int = config.get("num_key_value_heads") or self._num_heads
        self._head_dim: int = (
            config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        )
        self._eps: float = config["rms_norm_eps"]
        self._make_layers(_Weights(base), config, quantization, room)
        self._rotary = _rotary_table(base, dtype)  # (max positions, 2, head_dim)

    def _make_layers(
        self,
        weights: _Weights,
        config: dict[str, Any],
        quantization: Quantization,
        room: LoraRoom,
    ) -> None:
        def adapted(layer: str, *modules: str) -> _AdaptedLinear:
            names = [f"{layer}.{module}" for module in modules]
            parts = [weights[f"{name}.weight"] for name in names]
            biases = [weights.get(f"{name}.bias") for name in names]
            bias = (
                torch.cat([b for b in biases if b is not None]) if biases[0] is not None else None
            )
            weight = torch.cat(parts)
            return _AdaptedLinear(
                make_linear(weight, bias, quantization, self.dtype),
                LoraSlots(
                    weight.shape[1],
                    [(name, part.shape[0]) for name, part in zip(names, parts, strict=True)],
                    num_slots=room.num_slots,
                    max_rank=room.max_rank,
                    dtype=room.dtype,
                ),
            )

        self._layers = []
        for index in range(config["num_hidden_layers"]):
            layer = f"model.layers.{index}"
            self._layers.append(
                _Layer(
                    attention_norm=weights[f"{layer}.input_layernorm.weight"].to(self.dtype),
                    qkv=adapted(layer, *(f"self_attn.{p}_proj" for p in "qkv")),
                    o=adapted(layer, "self_attn.o_proj"),
                    mlp_norm=weights[f"{layer}.post_attention_layernorm.weight"].to(self.dtype),
                    gate_up=adapted(layer, "mlp.gate_proj", "mlp.up_proj"),
                    down=adapted(layer, "mlp.down_proj"),
                )
            )
        self._norm = weights["model.norm.weight"].to(self.dtype)
        embedding = weights["model.embed_tokens.weight"]
        self._embedding = embedding.to(
            torch.bfloat16 if quantization is not Quantization.NONE else self.dtype
        )
        head = embedding if config.get("tie_word_embeddings") else weights["lm_head.weight"]
        # bitsandbytes leaves the head alone; a 4-bit head would cost more than it saves.
        head_quantization = (
            Quantization.INT8 if quantization is Quantization.INT8 else Quantization.NONE
        )
        self._head = make_linear(head, None, head_quantization, self.dtype)

    @property
    def kv_shape(self) -> KvShape:
        return KvShape(len(self._layers), self._num_kv_heads, self._head_dim, self.dtype)

    @property
    def lora_slots(self) -> list[LoraSlots]:
        return [linear.slots for layer in self._layers for linear in layer.adapted]

    @property
    def max_positions(self) -> int:
        return self._rotary.shape[0]

    @torch.inference_mode()
    def forward(self, step: StepInput) -> Tensor:
        """Logits (num_wanted, vocab) of the wanted rows; writes keys and values to the blocks."""
        hidden = functional.embedding(step.token_ids, self._embedding).to(self.dtype)
        rotary = self._rotary[step.positions]  # (num_tokens, 2, head_dim)
        for index, layer in enumerate(self._layers):
            normed = self._rms_norm(hidden, layer.attention_norm)
            qkv = layer.qkv(normed, step.lora)
            attended = self._attend(index, qkv, rotary, step.segments)
            hidden = hidden + layer.o(attended, step.lora)
            normed = self._rms_norm(hidden, layer.mlp_norm)
            gate, up = layer.gate_up(normed, step.lora).chunk(2, -1)
            hidden = hidden + layer.down(functional.silu(gate) * up, step.lora)
        return self._head(self._rms_norm(hidden[step.last_rows], self._norm))

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """x / rms(x) · weight (Zhang and Sennrich 2019), the mean in fp32 as transformers does."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._eps)
        return weight * scaled.to(self.dtype)

    def _attend(
        self, index: int, qkv: Tensor, rotary: Tensor, segments: Sequence[Segment]
    ) -> Tensor:
        """Attention of every row over its own sequence → (num_tokens, num_heads · head_dim)."""
        num_tokens = qkv.shape[0]
        heads = qkv.view(num_tokens, -1, self._head_dim)
        num_rotated = self._num_heads + self._num_kv_heads
        rotated = _rotate(heads[:, :num_rotated], rotary)
        queries = rotated[:, : self._num_heads].transpose(0, 1)  # (num_heads, num_tokens, head_dim)
        keys = rotated[:, self._num_heads :].transpose(0, 1)
        values = heads[:, num_rotated:].transpose(0, 1)
        out = qkv.new_empty(num_tokens, self._num_heads, self._head_dim)
        for segment in segments:
            rows = slice(segment.start, segment.end)
            length = segment.end - segment.start
            end = segment.position + length
            block = segment.block[index]  # (2, num_kv_heads, capacity, head_dim)
            block[0, :, segment.position : end] = keys[:, rows]
            block[1, :, segment.position : end] = values[:, rows]
            attended = functional.scaled_dot_product_attention(
                queries[None, :, rows],
                block[None, 0, :, :end],
                block[None, 1, :, :end],
                attn_mask=_chunk_mask(segment.position, length),
                is_causal=segment.position == 0 and length > 1,
                enable_gqa=True,
            )  # (1, num_heads, length, head_dim)
            out[rows] = attended[0].transpose(0, 1)
        return out.view(num_tokens, -1)


class _Weights:
    """Tensors of a safetensors directory by name, read when asked for."""

    def __init__(self, base: BaseDirectory) -> None:
        self._owner: dict[str, Any] = {}
        for path in base.weight_files:
            file: Any = safe_open(path, framework="pt")
            self._owner |= dict.fromkeys(file.keys(), file)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._owner:
            raise BaseNotFound(f"the base's weight files hold no tensor {name!r}")
        tensor: Tensor = self._owner[name].get_tensor(name)
        return tensor

    def get(self, name: str) -> Tensor | None:
        return self[name] if name in self._owner else None


def _check_family(base: BaseDirectory) -> None:
    family = base.config.get("model_type")
    activation = base.config.get("hidden_act", "silu")
    if family != "llama" or activation != "silu":
        raise BaseNotFound(
            f"base {base.model_id!r} is of type {family!r} (activation {activation!r}); "
            "this server runs Llama-family models (model_type 'llama', activation 'silu')"
        )


def _rotary_table(base: BaseDirectory, dtype: torch.dtype) -> Tensor:
    """cos and sin for every position (max positions, 2, head_dim), scaled as the config says."""
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = AutoConfig.from_pretrained(base.path)
    make: Callable[..., Any] = LlamaRotaryEmbedding
    rotary = make(config)
    positions = torch.arange(config.max_position_embeddings)[None]
    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1, dtype=torch.float32), positions)
    return torch.stack([cos[0], sin[0]], 1).to(dtype)


def _rotate(heads: Tensor, rotary: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) on (num_tokens, num_heads, head_dim)."""
    cos, sin = rotary[:, None, 0], rotary[:, None, 1]  # (num_tokens, 1, head_dim)
    first, second = heads.chunk(2, -1)
    return heads * cos + torch.cat([-second, first], -1) * sin


def _chunk_mask(position: int, length: int) -> Tensor | None:
    """Which of the keys each of `length` queries may see (length, keys); None: all, or causal."""
    if position == 0 or length == 1:
        return None
    return torch.ones(length, position + length, dtype=torch.bool).tril(position)

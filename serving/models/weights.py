"""A Llama-family base on disk: its shape, its tensors by name, its rotary table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.errors import BaseNotFound

FAMILIES = ("llama", "mistral", "ministral", "qwen2", "qwen3")
"""The model types that are one forward pass with small differences, all of them in Shape."""
ROTARY = ("default", "linear", "dynamic", "yarn", "llama3")
"""Kinds of rotary embedding whose angles depend on the position alone, up to the last one."""
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The layers of a block that are computed side by side, by the name of the whole."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama-family model, in features, heads and layers, and what its family adds."""

    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    intermediate: int
    vocab: int
    eps: float
    has_qk_norm: bool
    windows: tuple[int, ...]
    """Keys that a query of each layer sees at most, its own included; 0: all."""

    @classmethod
    def of(cls, base: BaseDirectory) -> Shape:
        """Raises BaseNotFound when `unsupported_reason` names a reason."""
        config = read_config(base)
        if reason := unsupported_reason(config):
            raise BaseNotFound(f"base {base.model_id!r}: {reason}")
        num_heads: int = config.num_attention_heads
        return cls(
            hidden=config.hidden_size,
            num_heads=num_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // num_heads,
            num_layers=config.num_hidden_layers,
            intermediate=config.intermediate_size,
            vocab=config.vocab_size,
            eps=config.rms_norm_eps,
            has_qk_norm=config.model_type == "qwen3",
            windows=windows(config),
        )

    def widths(self, whole: str) -> tuple[int, list[int]]:
        """The features that a fused layer (see FUSED) takes, and gives by part."""
        heads, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "qkv": (self.hidden, [heads, kv, kv]),
            "o": (heads, [self.hidden]),
            "gate_up": (self.hidden, [self.intermediate] * 2),
            "down": (self.intermediate, [self.hidden]),
        }[whole]

    @property
    def weights_per_key(self) -> float:
        """Products with weights that a row takes, by those that a key takes of it: heads · features
        for its score and as many for its value, in the layers without a window."""
        heads, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        layer = self.hidden * (2 * heads + 2 * kv + 3 * self.intermediate)
        num_whole = sum(not window for window in self.windows)
        return self.num_layers * layer / (2 * heads * num_whole) if num_whole else math.inf

    @property
    def modules(self) -> frozenset[str]:
        return frozenset(
            f"model.layers.{layer}.{module}"
            for layer in range(self.num_layers)
            for modules in FUSED.values()
            for module in modules
        )


def read_config(base: BaseDirectory) -> Any:
    """The config as transformers reads it, its defaults filled in; raises BaseNotFound."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base.path)
    except ValueError as error:
        raise BaseNotFound(
            f"base {base.model_id!r}: transformers cannot read its config: {error}"
        ) from error


def unsupported_reason(config: Any) -> str | None:
    """Why the Llama-family forward pass cannot run a model; None when it can."""
    if config.model_type not in FAMILIES:
        return f"it is of type {config.model_type!r}, not {', '.join(FAMILIES)}"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act!r}, not 'silu'"
    rotary = config.rope_parameters
    if rotary["rope_type"] not in ROTARY or rotary.get("partial_rotary_factor", 1) != 1:
        kind = rotary["rope_type"]
        return f"its rotary embedding is {kind!r}, or turns a part of each head"
    return None


def windows(config: Any) -> tuple[int, ...]:
    """Mistral has a window in all layers or in none; those after it say which layers have one."""
    num_layers: int = config.num_hidden_layers
    window = None if config.model_type == "llama" else config.sliding_window
    kinds: Sequence[str] = ["sliding_attention"] * num_layers
    if config.model_type not in ("llama", "mistral"):
        kinds = config.layer_types
    return tuple((window or 0) if kind == "sliding_attention" else 0 for kind in kinds)


class BaseWeights:
    """Tensors of a safetensors directory by name, read when asked for."""

    def __init__(self, base: BaseDirectory) -> None:
        self._owner: dict[str, Any] = {}
        for path in base.weight_files:
            file: Any = safe_open(path, framework="pt")
            self._owner |= dict.fromkeys(file.keys(), file)
        self._is_tied = bool(base.config.get("tie_word_embeddings"))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._owner:
            raise BaseNotFound(f"the base's weight files hold no tensor {name!r}")
        tensor: Tensor = self._owner[name].get_tensor(name)
        return tensor

    def get(self, name: str) -> Tensor | None:
        return self[name] if name in self._owner else None

    def fused(self, layer: int, whole: str) -> tuple[list[str], list[Tensor], Tensor | None]:
        """The modules of a fused layer, their weights (out, in), their biases joined (or None)."""
        names = [f"model.layers.{layer}.{module}" for module in FUSED[whole]]
        weights = [self[f"{name}.weight"] for name in names]
        biases = [self.get(f"{name}.bias") for name in names]
        if all(bias is None for bias in biases):
            return names, weights, None
        filled = [
            weight.new_zeros(len(weight)) if bias is None else bias
            for weight, bias in zip(weights, biases, strict=True)
        ]
        return names, weights, torch.cat(filled)

    @property
    def embedding(self) -> Tensor:
        return self["model.embed_tokens.weight"]

    @property
    def head(self) -> Tensor:
        return self.embedding if self._is_tied else self["lm_head.weight"]


def rotary_table(base: BaseDirectory, max_positions: int) -> Tensor:
    """cos and sin of the first positions (at most max_positions, 2, head_dim), scaled as the
    config says."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = read_config(base)
    make: Callable[..., Any] = LlamaRotaryEmbedding
    rotary = make(config)
    positions = torch.arange(min(config.max_position_embeddings, max_positions))[None]
    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1, dtype=torch.float32), positions)
    return torch.stack([cos[0], sin[0]], 1)

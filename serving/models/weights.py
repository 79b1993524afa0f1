"""A Llama-family base on disk: its shape, its tensors by name, its rotary table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from registry.errors import BaseNotFound
from serving.base_model import BaseDirectory

FAMILIES = ("llama",)
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The layers of a block that are computed side by side, by the name of the whole."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama-family model, in features, heads and layers."""

    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    intermediate: int
    vocab: int
    eps: float

    @classmethod
    def of(cls, base: BaseDirectory) -> Shape:
        """Raises BaseNotFound when the directory holds a model of another family."""
        config = base.config
        family, activation = config.get("model_type"), config.get("hidden_act", "silu")
        if family not in FAMILIES or activation != "silu":
            raise BaseNotFound(
                f"base {base.model_id!r} is of type {family!r} (activation {activation!r}); this "
                f"server runs models of type {', '.join(FAMILIES)} with activation 'silu'"
            )
        num_heads: int = config["num_attention_heads"]
        return cls(
            hidden=config["hidden_size"],
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // num_heads,
            num_layers=config["num_hidden_layers"],
            intermediate=config["intermediate_size"],
            vocab=config["vocab_size"],
            eps=config["rms_norm_eps"],
        )

    @property
    def modules(self) -> frozenset[str]:
        return frozenset(
            f"model.layers.{layer}.{module}"
            for layer in range(self.num_layers)
            for modules in FUSED.values()
            for module in modules
        )


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
        joined = [b for b in biases if b is not None]
        return names, weights, torch.cat(joined) if joined else None

    @property
    def embedding(self) -> Tensor:
        return self["model.embed_tokens.weight"]

    @property
    def head(self) -> Tensor:
        return self.embedding if self._is_tied else self["lm_head.weight"]


def rotary_table(base: BaseDirectory) -> Tensor:
    """cos and sin for every position (max positions, 2, head_dim), scaled as the config says."""
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = AutoConfig.from_pretrained(base.path)
    make: Callable[..., Any] = LlamaRotaryEmbedding
    rotary = make(config)
    positions = torch.arange(config.max_position_embeddings)[None]
    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1, dtype=torch.float32), positions)
    return torch.stack([cos[0], sin[0]], 1)

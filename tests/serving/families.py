"""Tiny random models of each Llama-like family, and of others that transformers' own code runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    LlamaConfig,
    MinistralConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from serving.base_model import BaseDirectory
from tests.tiny_base import LLAMA_SIZES, make_tiny_base

WINDOW = 11
# The window is shorter than the prompts, and no multiple of a page.
_WINDOWS = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 32,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def _sizes(**changes: Any) -> dict[str, Any]:
    return {**LLAMA_SIZES, **changes}


def _without_head_dim(**changes: Any) -> dict[str, Any]:
    """Heads of hidden_size / num_attention_heads."""
    sizes = _sizes(num_attention_heads=2, num_key_value_heads=1, **changes)
    del sizes["head_dim"]
    return sizes


LLAMA_LIKE: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_sizes(tie_word_embeddings=False)),
    "llama-biases": lambda: LlamaConfig(**_sizes(attention_bias=True, mlp_bias=True)),
    "llama-llama3-rope": lambda: LlamaConfig(**_sizes(rope_parameters=_LLAMA3)),
    "mistral": lambda: MistralConfig(**_sizes(sliding_window=None)),
    "mistral-window": lambda: MistralConfig(**_sizes(sliding_window=WINDOW)),
    "ministral": lambda: MinistralConfig(
        **_sizes(sliding_window=WINDOW, layer_types=["full_attention", "sliding_attention"])
    ),
    "qwen2": lambda: Qwen2Config(**_without_head_dim()),
    "qwen2-window": lambda: Qwen2Config(**_without_head_dim(**_WINDOWS)),
    "qwen2-yarn": lambda: Qwen2Config(**_without_head_dim(rope_parameters=_YARN)),
    "qwen3": lambda: Qwen3Config(**_sizes(rms_norm_eps=1e-5)),
    "qwen3-window-bias": lambda: Qwen3Config(**_sizes(attention_bias=True, **_WINDOWS)),
}


def make_family(directory: Path, name: str) -> BaseDirectory:
    return make_tiny_base(directory, name=name, config=LLAMA_LIKE[name]())

"""Tiny random models of each Llama-like family, and of others that transformers' own code runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MinistralConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from hotswap.serving.base_model import BaseDirectory
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


_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_WIDE = {"initializer_range": 0.2}
_GEMMA = {
    **LLAMA_SIZES,
    "sliding_window": WINDOW,
    "layer_types": ["full_attention", "sliding_attention"],
}

OTHERS: dict[str, Callable[[], PretrainedConfig]] = {
    "gpt2": lambda: GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=512, **_WIDE),
    "gpt_neox": lambda: GPTNeoXConfig(
        **_SMALL, **_WIDE, intermediate_size=128, max_position_embeddings=512
    ),
    "phi": lambda: PhiConfig(**_SMALL, **_WIDE, intermediate_size=128, max_position_embeddings=512),
    "gemma2": lambda: Gemma2Config(**_GEMMA, query_pre_attn_scalar=32),
    "gemma3": lambda: Gemma3TextConfig(**_GEMMA, query_pre_attn_scalar=32),
    "olmo2": lambda: Olmo2Config(**_without_head_dim()),
    "opt": lambda: OPTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=128,
        word_embed_proj_dim=64,
        max_position_embeddings=512,
        init_std=0.2,
    ),
    "falcon": lambda: FalconConfig(**_SMALL, **_WIDE, ffn_hidden_size=128),
    "falcon-alibi": lambda: FalconConfig(**_SMALL, **_WIDE, ffn_hidden_size=128, alibi=True),
    "bloom": lambda: BloomConfig(hidden_size=64, n_layer=2, n_head=4, **_WIDE),
    "mixtral": lambda: MixtralConfig(
        **_sizes(num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    ),
}


def make_family(directory: Path, name: str) -> BaseDirectory:
    config = (LLAMA_LIKE | OTHERS)[name]()
    return make_tiny_base(directory, name=name, config=config)

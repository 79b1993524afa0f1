"""A Llama-family model for LoRA training: its states where answers are predicted.

The same numbers as transformers' modules with PEFT's layers, which stay the owners of all weights,
up to rounding: the residual stream is float32 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hotswap.serving.models.weights import FUSED
from hotswap.training.batches import TrainingBatch
from hotswap.training.packed.attention import Heads, attention
from hotswap.training.packed.layout import Layout
from hotswap.training.packed.products import FrozenLinears, gated_product, norm_product, product


@dataclass(frozen=True)
class Norm:
    """x / √(mean(x²) + eps) · weight, in float32."""

    weight: Tensor
    eps: float

    @classmethod
    def of(cls, module: Any) -> Norm:
        return cls(module.weight.detach(), module.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return x * scale * self.weight


@dataclass(frozen=True)
class Block:
    """One layer: four joint products, attention and a residual stream."""

    before_attention: Norm
    before_mlp: Norm
    head_norms: tuple[Norm, Norm] | None
    heads: Heads
    window: int
    qkv: FrozenLinears
    o: FrozenLinears
    gate_up: FrozenLinears
    down: FrozenLinears

    @classmethod
    def of(cls, layer: Any, head_dim: int, window: int) -> Block:
        joint = {
            whole: FrozenLinears([layer.get_submodule(name) for name in names])
            for whole, names in FUSED.items()
        }
        attends = layer.self_attn
        sizes = [p.out_features // head_dim for p in (attends.q_proj, attends.k_proj)]
        norms = None
        if hasattr(attends, "q_norm"):
            norms = Norm.of(attends.q_norm), Norm.of(attends.k_norm)
        return cls(
            Norm.of(layer.input_layernorm),
            Norm.of(layer.post_attention_layernorm),
            norms,
            Heads(sizes[0], sizes[1], head_dim),
            window,
            **joint,
        )

    @property
    def products(self) -> tuple[FrozenLinears, ...]:
        return self.qkv, self.o, self.gate_up, self.down

    def __call__(
        self, x: Tensor, rotary: Tensor, layout: Layout, wanted: Tensor | None = None
    ) -> Tensor:
        """x (num_tokens, hidden) float32, one layer later; of `wanted` places only, if given."""
        norm = self.before_attention
        qkv = self._norm_heads(norm_product(x, norm.weight, norm.eps, self.qkv))
        mixed = attention(qkv, rotary, layout, self.heads, self.window)
        if wanted is not None:
            x, mixed = x[wanted], mixed[wanted]
        x = x + product(mixed, self.o)
        norm = self.before_mlp
        gate_up = norm_product(x, norm.weight, norm.eps, self.gate_up)
        return x + gated_product(gate_up, self.down)

    def _norm_heads(self, qkv: Tensor) -> Tensor:
        if self.head_norms is None:
            return qkv
        queries, keys, values = self.heads.cut(qkv)
        normed = [
            norm(p).to(qkv.dtype) for norm, p in zip(self.head_norms, (queries, keys), strict=True)
        ]
        return torch.cat([*normed, values], 1).flatten(1)


class PackedLlama:
    """Invariant: `answer_states` uses the LoRA weights as they are when it is called; they must
    not change before its backward pass is over."""

    def __init__(self, causal: Any, windows: Sequence[int]) -> None:
        config = causal.config
        head_dim = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        self._embedding: Tensor = causal.get_input_embeddings().weight.detach()
        self._blocks = [
            Block.of(layer, head_dim, window)
            for layer, window in zip(causal.model.layers, windows, strict=True)
        ]
        self._last_norm = Norm.of(causal.model.norm)
        self._rotary: nn.Module = causal.model.rotary_emb

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for block in self._blocks for joint in block.products for p in joint.parameters]

    def answer_states(self, batch: TrainingBatch) -> Tensor:
        """The last hidden states that predict supervised tokens, (num_supervised, hidden)."""
        for block in self._blocks:
            for joint in block.products:
                joint.refresh()
        packed = Layout.of(batch)
        wanted, answers = torch.unique(packed.answers, return_inverse=True)
        device = self._embedding.device
        layout, wanted, answers = packed.to(device), wanted.to(device), answers.to(device)
        x = functional.embedding(layout.ids, self._embedding).float()
        rotary = self._angles(layout.positions)
        for block in self._blocks[:-1]:
            x = block(x, rotary, layout)
        x = self._blocks[-1](x, rotary, layout, wanted)
        return self._last_norm(x).to(self._embedding.dtype)[answers]

    @torch.no_grad()
    def _angles(self, positions: Tensor) -> Tensor:
        """Cosine and sine of half a head's angles, (num_tokens, 2, dim / 2) float32."""
        of_type = torch.zeros(1, dtype=torch.float32, device=positions.device)
        cosine, sine = self._rotary(of_type, positions[None])
        half = cosine.shape[-1] // 2
        return torch.stack([cosine[0, :, :half], sine[0, :, :half]], 1)

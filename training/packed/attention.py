"""Attention of packed rows behind a common prefix, and its gradient. Knows no layers.

Only here rows stand in a padded grid; padding is at the right, where no query sees it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from training.packed.layout import Layout

_Parts = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Heads:
    """How a line of queries, keys and values, (num_tokens, (num + 2 num_kv) · dim), is cut."""

    num: int
    num_kv: int
    dim: int

    def cut(self, qkv: Tensor) -> _Parts:
        """Views (num_tokens, num or num_kv, dim) of queries, keys and values."""
        heads = qkv.view(len(qkv), -1, self.dim)
        queries, keys, values = heads.split_with_sizes([self.num, self.num_kv, self.num_kv], 1)
        return queries, keys, values


class _Attention(Function):
    """Probabilities are computed again in the backward pass: they alone grow with the square of
    the length."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, rotary: Tensor, layout: Layout, heads: Heads, window: int
    ) -> Tensor:
        turned = _turned(qkv, rotary, heads)
        ctx.layout, ctx.heads, ctx.window = layout, heads, window
        ctx.save_for_backward(turned, rotary)
        shared, own = _pieces(turned, layout, heads)
        lines = [layout.line(_Grid.of(*own, window).mix())]
        if shared is not None:
            lines.insert(0, _Grid.of(*shared, window).mix()[0])
        return torch.cat(lines).flatten(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        turned, rotary = ctx.saved_tensors
        layout, heads = ctx.layout, ctx.heads
        num_prefix = layout.num_prefix
        by_head = gradient.view(len(gradient), -1, heads.dim)
        shared, own = _pieces(turned, layout, heads)
        found = torch.empty_like(turned)
        into = heads.cut(found)
        gradients = _Grid.of(*own, ctx.window).gradients(layout.grid(by_head[num_prefix:]))
        into[0][num_prefix:] = layout.line(gradients[0])
        for place, of_keys in zip(into[1:], gradients[1:], strict=True):
            place[num_prefix:] = layout.line(of_keys[:, num_prefix:])
        if shared is not None:
            first = _Grid.of(*shared, ctx.window).gradients(by_head[:num_prefix][None])
            into[0][:num_prefix] = first[0][0]
            for place, of_prefix, of_keys in zip(into[1:], first[1:], gradients[1:], strict=True):
                place[:num_prefix] = of_prefix[0] + of_keys[:, :num_prefix].sum(0)
        _turn(found, rotary, heads, back=True)
        return found, None, None, None, None


def attention(qkv: Tensor, rotary: Tensor, layout: Layout, heads: Heads, window: int = 0) -> Tensor:
    """(num_tokens, num · dim) from qkv (num_tokens, (num + 2 num_kv) · dim) before rotation.

    `rotary` (num_tokens, 2, dim / 2) float32 are cosine and sine of each token's angles (Su et al.
    2021, halves). A query sees the `window` last keys, its own included; 0: all.
    """
    mixed: Any = _Attention.apply(qkv, rotary, layout, heads, window)  # type: ignore[no-untyped-call]
    tensor: Tensor = mixed
    return tensor


@dataclass(frozen=True, slots=True)
class _Grid:
    """Rows of one size: `queries` (rows · num_kv, group · length, dim), `keys` and `values`
    (rows · num_kv, num_keys, dim), `probabilities` of each query over the keys."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    probabilities: Tensor
    shape: tuple[int, int, int, int]  # rows, num_kv, group, length

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor, values: Tensor, window: int) -> _Grid:
        """From (rows, length, num, dim) and twice (rows, num_keys, num_kv, dim); the last query
        stands at the last key."""
        rows, length, num, dim = queries.shape
        num_kv = keys.shape[2]
        shape = (rows, num_kv, num // num_kv, length)
        scaled = (queries * dim**-0.5).view(rows, length, num_kv, -1, dim)
        flat = scaled.permute(0, 2, 3, 1, 4).reshape(rows * num_kv, -1, dim)
        keys, values = (part.transpose(1, 2).flatten(0, 1) for part in (keys, values))
        scores = (flat @ keys.mT).view(rows * num_kv, *shape[2:], -1)
        hidden = _hidden(length, keys.shape[1], window, scores.device)
        scores.masked_fill_(hidden, -math.inf)
        return cls(flat, keys, values, scores.softmax(-1).flatten(1, 2), shape)

    def mix(self) -> Tensor:
        """(rows, length, num, dim)."""
        return self._by_query(self.probabilities @ self.values)

    def gradients(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of queries, keys and values, in the shapes they came in, from that of `mix`."""
        rows, num_kv, group, _ = self.shape
        mixed = gradient.view(rows, -1, num_kv, group, gradient.shape[-1]).permute(0, 2, 3, 1, 4)
        mixed = mixed.reshape(rows * num_kv, -1, gradient.shape[-1])
        of_scores = torch.ops.aten._softmax_backward_data(
            mixed @ self.values.mT, self.probabilities, -1, self.probabilities.dtype
        )
        of_queries = (of_scores @ self.keys) * gradient.shape[-1] ** -0.5
        return (
            self._by_query(of_queries),
            self._by_key(of_scores.mT @ self.queries),
            self._by_key(self.probabilities.mT @ mixed),
        )

    def _by_query(self, flat: Tensor) -> Tensor:
        rows, _, _, length = self.shape
        return (
            flat.view(*self.shape, -1)
            .permute(0, 3, 1, 2, 4)
            .reshape(rows, length, -1, flat.shape[-1])
        )

    def _by_key(self, flat: Tensor) -> Tensor:
        return flat.view(*self.shape[:2], *flat.shape[1:]).transpose(1, 2)


def _pieces(turned: Tensor, layout: Layout, heads: Heads) -> tuple[_Parts | None, _Parts]:
    """Queries, keys and values of the prefix as one row, if there is one, and of the rows."""
    parts = heads.cut(turned)
    queries, keys, values = (layout.grid(part[layout.num_prefix :]) for part in parts)
    if not layout.num_prefix:
        return None, (queries, keys, values)
    first, first_keys, first_values = (part[None, : layout.num_prefix] for part in parts)
    keys, values = (
        torch.cat([prefix.expand(layout.num_rows, -1, -1, -1), own], 1)
        for prefix, own in ((first_keys, keys), (first_values, values))
    )
    return (first, first_keys, first_values), (queries, keys, values)


def _hidden(length: int, num_keys: int, window: int, device: torch.device) -> Tensor:
    """(length, num_keys): the keys behind a query, and those before its window."""
    query = torch.arange(num_keys - length, num_keys, device=device)[:, None]
    key = torch.arange(num_keys, device=device)
    hidden = key > query
    return hidden | (key <= query - window) if window else hidden


def _turned(qkv: Tensor, rotary: Tensor, heads: Heads) -> Tensor:
    made = qkv.clone()
    _turn(made, rotary, heads)
    return made


def _turn(qkv: Tensor, rotary: Tensor, heads: Heads, *, back: bool = False) -> None:
    """Rotate queries and keys in place, in float32."""
    both = qkv.view(len(qkv), -1, 2, heads.dim // 2)[:, : heads.num + heads.num_kv]
    first, second = both.unbind(2)  # (num_tokens, heads, dim / 2)
    cosine, sine = rotary[:, None].unbind(2)
    if back:
        sine = -sine
    turned = first * cosine - second * sine
    second.copy_(second * cosine + first * sine)
    first.copy_(turned)

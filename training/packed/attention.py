"""Attention of packed rows behind a common prefix, and its gradient. Knows no layers.

Only here rows stand in a padded grid; padding is at the right, where no query sees it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hotswap.training.packed.layout import Layout

_Parts = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Heads:
    """How a line of queries, keys and values, (num_tokens, (num + 2 num_kv) · dim), is cut."""

    num: int
    num_kv: int
    dim: int

    def cut(self, qkv: Tensor) -> _Parts:
        """Views (…, num or num_kv, dim) of queries, keys and values."""
        heads = qkv.view(*qkv.shape[:-1], -1, self.dim)
        queries, keys, values = heads.split_with_sizes([self.num, self.num_kv, self.num_kv], -2)
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
        mixed = qkv.new_empty(len(qkv), heads.num * heads.dim)
        num_prefix = layout.num_prefix
        if num_prefix:
            mixed[:num_prefix] = _prefix_grid(turned, layout, heads, window).mix()[0].flatten(1)
        mixed[num_prefix:] = layout.line(_own_grid(turned, layout, heads, window).mix()).flatten(1)
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        turned, rotary = ctx.saved_tensors
        layout, heads, window = ctx.layout, ctx.heads, ctx.window
        num_prefix = layout.num_prefix
        by_head = gradient.view(len(gradient), -1, heads.dim)
        own = turned.new_empty(*layout.seats.shape, turned.shape[1])
        queries, keys, values = into = heads.cut(own)
        _own_grid(turned, layout, heads, window).gradients(
            layout.grid(by_head[num_prefix:]), (queries[:, num_prefix:], keys, values)
        )
        of_turned = torch.empty_like(turned)
        of_turned[num_prefix:] = layout.line(own[:, num_prefix:])
        if num_prefix:
            prefix = heads.cut(of_turned[None, :num_prefix])
            _prefix_grid(turned, layout, heads, window).gradients(
                by_head[None, :num_prefix], prefix
            )
            for place, of_rows in zip(prefix[1:], into[1:], strict=True):
                place += of_rows[:, :num_prefix].sum(0)
        _turn(of_turned, rotary, heads, back=True)
        return of_turned, None, None, None, None


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

    scale: float

    @classmethod
    def of(cls, queries: Tensor, keys: Tensor, values: Tensor, window: int) -> _Grid:
        """From (rows, length, num, dim) and twice (rows, num_keys, num_kv, dim); the last query
        stands at the last key."""
        rows, length, num, dim = queries.shape
        num_keys, num_kv = keys.shape[1:3]
        shape = (rows, num_kv, num // num_kv, length)
        scale = dim**-0.5
        flat = _by_group(queries, num_kv)
        keys, values = (part.transpose(1, 2).flatten(0, 1) for part in (keys, values))
        hidden = _hidden(length, num_keys, window, shape[2], keys.dtype, keys.device)
        scores = torch.baddbmm(hidden, flat, keys.mT, alpha=scale)
        return cls(flat, keys, values, scores.softmax(-1), shape, scale)

    def mix(self) -> Tensor:
        """(rows, length, num, dim)."""
        return self._by_query(self.probabilities @ self.values).flatten(2, 3)

    def gradients(self, gradient: Tensor, into: _Parts) -> None:
        """Write those of queries, keys and values, in the shapes they came in, from that of
        `mix`."""
        mixed = _by_group(gradient, self.shape[1])
        of_scores = torch.ops.aten._softmax_backward_data(
            mixed @ self.values.mT, self.probabilities, -1, self.probabilities.dtype
        )
        queries, keys, values = into
        of_queries = self._by_query(self._scaled(of_scores, self.keys))
        queries.view(of_queries.shape).copy_(of_queries)
        keys.copy_(self._by_key(self._scaled(of_scores.mT, self.queries)))
        values.copy_(self._by_key(self.probabilities.mT @ mixed))

    def _scaled(self, left: Tensor, right: Tensor) -> Tensor:
        """left · right · scale, rounded once."""
        return torch.baddbmm(left.new_empty(1), left, right, beta=0, alpha=self.scale)

    def _by_query(self, flat: Tensor) -> Tensor:
        """A view (rows, length, num_kv, group, dim)."""
        return flat.view(*self.shape, -1).permute(0, 3, 1, 2, 4)

    def _by_key(self, flat: Tensor) -> Tensor:
        return flat.view(*self.shape[:2], *flat.shape[1:]).transpose(1, 2)


def _by_group(queries: Tensor, num_kv: int) -> Tensor:
    """(rows, length, num, dim) to (rows · num_kv, group · length, dim)."""
    rows, length, _, dim = queries.shape
    by_kv = queries.view(rows, length, num_kv, -1, dim).permute(0, 2, 3, 1, 4)
    return by_kv.reshape(rows * num_kv, -1, dim)


def _prefix_grid(turned: Tensor, layout: Layout, heads: Heads, window: int) -> _Grid:
    """The prefix as one row."""
    return _Grid.of(*heads.cut(turned[None, : layout.num_prefix]), window)


def _own_grid(turned: Tensor, layout: Layout, heads: Heads, window: int) -> _Grid:
    """What rows have of their own, behind the prefix."""
    queries, keys, values = heads.cut(layout.rows(turned))
    return _Grid.of(queries[:, layout.num_prefix :], keys, values, window)


@lru_cache(maxsize=16)
def _hidden(
    length: int, num_keys: int, window: int, group: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(group · length, num_keys): -∞ at the keys behind a query and those before its window."""
    query = torch.arange(num_keys - length, num_keys, device=device)[:, None]
    key = torch.arange(num_keys, device=device)
    hidden = key > query
    if window:
        hidden |= key <= query - window
    made = torch.zeros(length, num_keys, dtype=dtype, device=device)
    return made.masked_fill_(hidden, -math.inf).repeat(group, 1)


def _turned(qkv: Tensor, rotary: Tensor, heads: Heads) -> Tensor:
    made = qkv.clone()
    _turn(made, rotary, heads)
    return made


def _turn(qkv: Tensor, rotary: Tensor, heads: Heads, *, back: bool = False) -> None:
    """Rotate queries and keys in place, in float32."""
    both = qkv.view(len(qkv), -1, 2, heads.dim // 2)[:, : heads.num + heads.num_kv]
    first, second = both.float().unbind(2)  # (num_tokens, heads, dim / 2)
    cosine, sine = rotary[:, None].unbind(2)
    if back:
        sine = -sine
    turned = torch.addcmul(first * cosine, second, sine, value=-1)
    both[:, :, 1] = torch.addcmul(second * cosine, first, sine)
    both[:, :, 0] = turned

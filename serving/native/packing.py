"""Weights in the order in which the kernels read them; see `src/types.h`."""

from __future__ import annotations

import torch
from torch import Tensor

from serving.native.layout import TILE


def pack_int8(quantized: Tensor) -> Tensor:
    """Signed (n, k) → unsigned (n / TILE, k / 4, TILE, 4), 128 added."""
    n, k = quantized.shape
    tiles = quantized.view(n // TILE, TILE, k // 4, 4).permute(0, 2, 1, 3)
    return tiles.contiguous().view(torch.uint8) ^ 0x80


def unpack_int8(packed: Tensor) -> Tensor:
    """What `pack_int8` was given."""
    tiles, quads = packed.shape[:2]
    signed = (packed ^ 0x80).view(torch.int8)
    return signed.permute(0, 2, 1, 3).reshape(tiles * TILE, quads * 4)


def pack_shrink(a: Tensor) -> Tensor:
    """A (width, k) → bf16 (width / TILE, k / 2, TILE, 2)."""
    width, k = a.shape
    pairs = a.to(torch.bfloat16).view(width // TILE, TILE, k // 2, 2)
    return pairs.permute(0, 2, 1, 3).contiguous()


def pack_expand(b: Tensor) -> Tensor:
    """B (n, r) of even r → bf16 (n / TILE, r / 2, TILE, 2)."""
    n, r = b.shape
    pairs = b.to(torch.bfloat16).view(n // TILE, TILE, r // 2, 2)
    return pairs.permute(0, 2, 1, 3).contiguous()

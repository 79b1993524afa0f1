"""Weights in the order in which the kernels read them; see `src/types.h`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hotswap.serving.native.layout import HALF_GROUP, TILE
from hotswap.serving.native.rounding import quantize_channels, quantize_half_groups


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


def pack_int4(numbers: Tensor, step: Tensor, lowest: Tensor) -> Tensor:
    """0 to 15 (n, k), bf16 step and lowest (n, k / HALF_GROUP) → bytes by tile and half group."""
    n, k = numbers.shape
    num_tiles, num_halves = n // TILE, k // HALF_GROUP
    quads = numbers.view(num_tiles, TILE, num_halves, HALF_GROUP // 8, 2, 4)
    quads = quads.permute(0, 2, 3, 4, 1, 5)  # (tiles, halves, 4, low or high, TILE, 4)
    both = (quads[:, :, :, 0] | quads[:, :, :, 1] << 4).reshape(num_tiles, num_halves, -1)
    heads = [
        values.bfloat16().view(num_tiles, TILE, num_halves).transpose(1, 2).contiguous()
        for values in (step, lowest)
    ]
    return torch.cat([*(head.view(torch.uint8) for head in heads), both], -1).contiguous()


def unpack_int4(packed: Tensor) -> Tensor:
    """The weights (n, k) that `pack_int4`'s bytes stand for."""
    num_tiles, num_halves = packed.shape[:2]
    heads = packed[..., : 4 * TILE].contiguous().view(torch.bfloat16).float()
    step, lowest = heads.view(num_tiles, num_halves, 2, TILE).unbind(2)  # (tiles, halves, TILE)
    both = packed[..., 4 * TILE :].view(num_tiles, num_halves, HALF_GROUP // 8, 1, TILE, 4)
    numbers = torch.cat([both & 15, both >> 4], 3)  # (tiles, halves, 4, low or high, TILE, 4)
    numbers = numbers.permute(0, 4, 1, 2, 3, 5).flatten(3)  # (tiles, TILE, halves, HALF_GROUP)
    weights = numbers * step.transpose(1, 2)[..., None] + lowest.transpose(1, 2)[..., None]
    return weights.reshape(num_tiles * TILE, num_halves * HALF_GROUP)


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """A linear layer's weights (n, k) in the kernels' form; n is a multiple of TILE."""

    bits: int
    memory: Tensor
    scale: Tensor | None
    """(n,) for weights of 8 bits."""

    @classmethod
    def of(cls, weight: Tensor, bits: int) -> PackedWeights:
        """Quantize and pack; rows of zeros fill the last tile up."""
        missing = -weight.shape[0] % TILE
        weight = functional.pad(weight.float(), (0, 0, 0, missing))
        if bits == 4:
            return cls(4, pack_int4(*quantize_half_groups(weight)), None)
        quantized, scale = quantize_channels(weight)
        return cls(8, pack_int8(quantized), scale)

    def rows(self, start: int, end: int) -> Tensor:
        """What the rows from `start` to `end` (multiples of TILE) stand for, in float."""
        tiles = self.memory[start // TILE : end // TILE]
        if self.scale is None:
            return unpack_int4(tiles)
        return unpack_int8(tiles) * self.scale[start:end, None]


def shrink_width(num_ranks: int) -> int:
    """The ranks of A that the kernels read for `num_ranks`: whole tiles, or 4 or 8 more."""
    rest = num_ranks % TILE
    return rounded_up(num_ranks, TILE if rest > TILE // 2 else TILE // 4)


def pack_shrink(a: Tensor) -> Tensor:
    """A (…, width, k) of a `shrink_width` → bf16 (…, width · k): whole tiles (k / 2, TILE, 2), and
    the rest as (k / 2 / folds, folds, rest, 2)."""
    *some, width, _ = a.shape
    rest = width % TILE
    packed = []
    if width > rest:
        packed.append(_pack_pairs(a[..., : width - rest, :]).flatten(len(some)))
    if rest:
        pairs = a[..., width - rest :, :].bfloat16().contiguous().view(torch.int32)
        folded = pairs.view(*some, rest, -1, TILE // rest).movedim(-3, -1).contiguous()
        packed.append(folded.view(torch.bfloat16).flatten(len(some)))
    return packed[0] if len(packed) == 1 else torch.cat(packed, -1)


def pack_expand(b: Tensor) -> Tensor:
    """B (…, n, r) of even r → bf16 (…, n / TILE, r / 2, TILE, 2)."""
    return _pack_pairs(b)


def _pack_pairs(matrix: Tensor) -> Tensor:
    # Pairs are moved as one number each, which is several times as fast.
    pairs = matrix.bfloat16().contiguous().view(torch.int32)
    *some, num_rows, num_pairs = pairs.shape
    tiles = pairs.view(*some, num_rows // TILE, TILE, num_pairs).transpose(-2, -1).contiguous()
    return tiles.view(torch.bfloat16).view(*tiles.shape, 2)


def rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

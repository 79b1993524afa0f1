"""Weights in the order in which the kernels read them; see `src/types.h`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hotswap.serving.native.layout import HALF_GROUP, TILE_N
from hotswap.serving.native.rounding import quantize_channels, quantize_half_groups


def pack_int8(quantized: Tensor) -> Tensor:
    """Signed (n, k) → unsigned (n / TILE_N, k / 4, TILE_N, 4), 128 added."""
    n, k = quantized.shape
    tiles = quantized.view(n // TILE_N, TILE_N, k // 4, 4).permute(0, 2, 1, 3)
    return tiles.contiguous().view(torch.uint8) ^ 0x80


def unpack_int8(packed: Tensor) -> Tensor:
    """What `pack_int8` was given."""
    tiles, quads = packed.shape[:2]
    signed = (packed ^ 0x80).view(torch.int8)
    return signed.permute(0, 2, 1, 3).reshape(tiles * TILE_N, quads * 4)


def pack_int4(numbers: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    """0 to 15 (n, k), bf16 scale and minimum (n, k / HALF_GROUP) → bytes by tile and half group."""
    n, k = numbers.shape
    num_tiles, num_halves = n // TILE_N, k // HALF_GROUP
    quads = numbers.view(num_tiles, TILE_N, num_halves, HALF_GROUP // 8, 2, 4)
    quads = quads.permute(0, 2, 3, 4, 1, 5)  # (tiles, halves, 4, low or high, TILE_N, 4)
    both = (quads[:, :, :, 0] | quads[:, :, :, 1] << 4).reshape(num_tiles, num_halves, -1)
    headers = [
        values.bfloat16().view(num_tiles, TILE_N, num_halves).transpose(1, 2).contiguous()
        for values in (scale, minimum)
    ]
    return torch.cat([*(header.view(torch.uint8) for header in headers), both], -1).contiguous()


def unpack_int4(packed: Tensor) -> Tensor:
    """The weights (n, k) that `pack_int4`'s bytes stand for."""
    num_tiles, num_halves = packed.shape[:2]
    headers = packed[..., : 4 * TILE_N].contiguous().view(torch.bfloat16).float()
    # (tiles, halves, TILE_N) each
    scale, minimum = headers.view(num_tiles, num_halves, 2, TILE_N).unbind(2)
    both = packed[..., 4 * TILE_N :].view(num_tiles, num_halves, HALF_GROUP // 8, 1, TILE_N, 4)
    numbers = torch.cat([both & 15, both >> 4], 3)  # (tiles, halves, 4, low or high, TILE_N, 4)
    numbers = numbers.permute(0, 4, 1, 2, 3, 5).flatten(3)  # (tiles, TILE_N, halves, HALF_GROUP)
    weights = numbers * scale.transpose(1, 2)[..., None] + minimum.transpose(1, 2)[..., None]
    return weights.reshape(num_tiles * TILE_N, num_halves * HALF_GROUP)


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """A linear layer's weights (n, k) in the kernels' form; n is a multiple of TILE_N."""

    bits: int
    memory: Tensor
    scale: Tensor | None
    """(n,) for weights of 8 bits."""

    @classmethod
    def of(cls, weight: Tensor, bits: int) -> PackedWeights:
        """Quantize and pack; rows of zeros fill the last tile up."""
        missing = -weight.shape[0] % TILE_N
        weight = functional.pad(weight.float(), (0, 0, 0, missing))
        if bits == 4:
            return cls(4, pack_int4(*quantize_half_groups(weight)), None)
        quantized, scale = quantize_channels(weight)
        return cls(8, pack_int8(quantized), scale)

    def rows(self, start: int, end: int) -> Tensor:
        """What the rows from `start` to `end` (multiples of TILE_N) stand for, in float."""
        tiles = self.memory[start // TILE_N : end // TILE_N]
        if self.scale is None:
            return unpack_int4(tiles)
        return unpack_int8(tiles) * self.scale[start:end, None]


def padded_ranks(num_ranks: int) -> int:
    """The ranks of A that the kernels read for `num_ranks`: whole tiles, or 4 or 8 more."""
    rest = num_ranks % TILE_N
    return rounded_up(num_ranks, TILE_N if rest > TILE_N // 2 else TILE_N // 4)


def pack_shrink(a: Tensor) -> Tensor:
    """A (…, num_ranks, k) of `padded_ranks` → bf16 (…, num_ranks · k): whole tiles
    (k / 2, TILE_N, 2), and the rest as (k / 2 / folds, folds, rest, 2)."""
    *some, num_ranks, _ = a.shape
    rest = num_ranks % TILE_N
    packed = []
    if num_ranks > rest:
        packed.append(_pack_pairs(a[..., : num_ranks - rest, :]).flatten(len(some)))
    if rest:
        pairs = a[..., num_ranks - rest :, :].bfloat16().contiguous().view(torch.int32)
        folded = pairs.view(*some, rest, -1, TILE_N // rest).movedim(-3, -1).contiguous()
        packed.append(folded.view(torch.bfloat16).flatten(len(some)))
    return packed[0] if len(packed) == 1 else torch.cat(packed, -1)


def pack_expand(b: Tensor) -> Tensor:
    """B (…, n, r) of even r → bf16 (…, n / TILE_N, r / 2, TILE_N, 2)."""
    return _pack_pairs(b)


def _pack_pairs(matrix: Tensor) -> Tensor:
    # Pairs are moved as one number each, which is several times as fast.
    pairs = matrix.bfloat16().contiguous().view(torch.int32)
    *some, num_rows, num_pairs = pairs.shape
    tiles = pairs.view(*some, num_rows // TILE_N, TILE_N, num_pairs).transpose(-2, -1).contiguous()
    return tiles.view(torch.bfloat16).view(*tiles.shape, 2)


def rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

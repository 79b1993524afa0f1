"""Memory in huge pages, where the system gives them: the kernels read all of the weights in every step, and in
pages of 4 KiB half of what an adapter costs is finding where each page lies."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

HUGE = 2 << 20
"""Bytes of a huge page on x86-64 and, by default, on arm64."""


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As torch.empty: what is never written costs no memory, beyond the huge page that it lies in.

    Only whole huge pages are asked for, so that a tensor takes no more than its own size.
    """
    num_bytes = prod(shape) * dtype.itemsize
    if num_bytes < HUGE:
        return torch.empty(*shape, dtype=dtype)
    mapping = mmap.mmap(-1, num_bytes + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(mapping, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE, start, num_bytes // HUGE * HUGE)
    return whole[start : start + num_bytes].view(dtype).view(*shape)


class Arena:
    """Tensors that are kept for good, side by side in huge pages."""

    def __init__(self, chunk_bytes: int = 16 * HUGE) -> None:
        self._chunk_bytes = chunk_bytes
        self._rest = torch.empty(0, dtype=torch.uint8)

    def place(self, tensor: Tensor) -> Tensor:
        """A copy, at a multiple of 64 bytes."""
        num_bytes = tensor.numel() * tensor.element_size()
        if num_bytes > len(self._rest):
            self._rest = empty([max(num_bytes, self._chunk_bytes)], torch.uint8)
        placed = self._rest[:num_bytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        self._rest = self._rest[num_bytes + -num_bytes % 64 :]
        return placed

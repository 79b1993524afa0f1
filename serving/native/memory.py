"""Memory for what the kernels read in every step, in huge pages where Linux gives them.

A step reads hundreds of megabytes; with pages of 4 KiB most of its lines also wait for an address.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

from hotswap.serving.native.packing import rounded_up

HUGE_PAGE = 2 << 20
_MAX_WASTE = 1 / 20
"""How much larger a piece of memory may be for its last page to be a huge one."""
_CHUNK = 32 * HUGE_PAGE
_LINE = 64


def resident_size(num_bytes: int) -> int:
    """What a piece of memory takes when all of it is written: whole pages."""
    in_huge_pages = rounded_up(num_bytes, HUGE_PAGE)
    if in_huge_pages <= num_bytes * (1 + _MAX_WASTE):
        return in_huge_pages
    return rounded_up(num_bytes, mmap.PAGESIZE)


def allocate(num_bytes: int) -> Tensor:
    """Zeros (num_bytes,) uint8. What is never written takes no memory but the rest of a page."""
    in_huge_pages = resident_size(num_bytes) // HUGE_PAGE * HUGE_PAGE
    if not in_huge_pages:
        return torch.zeros(num_bytes, dtype=torch.uint8)
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mapped = mmap.mmap(-1, rounded_up(num_bytes, HUGE_PAGE) + HUGE_PAGE, flags=private)
    except OSError:  # a process has tens of thousands of mappings at most
        return torch.zeros(num_bytes, dtype=torch.uint8)
    memory = torch.frombuffer(mapped, dtype=torch.uint8)
    start = -memory.data_ptr() % HUGE_PAGE
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a system without them
            mapped.madvise(mmap.MADV_HUGEPAGE, start, in_huge_pages)
    return memory[start : start + num_bytes]


class Arena:
    """Pieces of memory side by side, so that small ones lie in huge pages, too. All live as long
    as one of them."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def copy(self, tensor: Tensor) -> Tensor:
        """The same numbers, contiguous."""
        num_bytes = tensor.numel() * tensor.element_size()
        if num_bytes > len(self._free):
            self._free = allocate(max(num_bytes, _CHUNK))
        piece = self._free[:num_bytes].view(tensor.dtype).view(tensor.shape)
        self._free = self._free[rounded_up(num_bytes, _LINE) :]
        return piece.copy_(tensor)

"""Memory of the kernels: huge pages where the system gives them, given back when it is dropped."""

from __future__ import annotations

import gc
import mmap
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hotswap.serving.native.memory import HUGE_PAGE, Arena, allocate, resident_size

MB = 1 << 20


def in_huge_pages() -> bool:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[never]" not in setting.read_text()


def kilobytes(memory: Tensor, field: str) -> int:
    """What the system says of the mapping that the memory lies in."""
    at = memory.data_ptr()
    is_ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            is_ours = int(found[1], 16) <= at < int(found[2], 16)
        elif is_ours and line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"no {field} of {at:x}")


@pytest.mark.skipif(not in_huge_pages(), reason="the system gives no huge pages")
def test_what_is_written_lies_in_huge_pages() -> None:
    memory = allocate(10 * MB)
    assert memory.data_ptr() % HUGE_PAGE == 0
    assert not memory.any()
    memory.fill_(1)
    assert kilobytes(memory, "AnonHugePages") >= 8 * MB // 1024


@pytest.mark.parametrize(
    "num_bytes", [0, 1, 5000, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 9_768_960, 50 * MB + 7]
)
def test_a_piece_takes_at_most_a_twentieth_more_or_a_page(num_bytes: int) -> None:
    memory = allocate(num_bytes)
    assert len(memory.fill_(1)) == num_bytes
    assert (
        num_bytes <= resident_size(num_bytes) < max(num_bytes * 1.05, num_bytes + mmap.PAGESIZE) + 1
    )


def test_what_is_not_written_takes_no_memory_and_what_is_dropped_none_either() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    gc.collect()  # what other tests left may go at any time, and must not count
    memory = allocate(400 * MB)
    before = resident()
    memory[: 100 * MB] = 1
    assert 50 * MB < resident() - before < 200 * MB, "of 400 MB a quarter was written"
    view = memory[5:7]
    del memory
    gc.collect()
    assert resident() - before > 50 * MB, "a view needs it"
    del view
    gc.collect()
    assert resident() - before < 50 * MB


def test_an_arena_keeps_copies_side_by_side() -> None:
    arena = Arena()
    rng = torch.Generator().manual_seed(1)
    given = [
        torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
        for shape in ((3, 5), (40 * MB,), (1,), (90 * MB,), (7, 64))
    ]
    given.append(torch.randn(33, 3).bfloat16().T)
    kept = [arena.copy(tensor) for tensor in given]
    for tensor, copy in zip(given, kept, strict=True):
        assert torch.equal(tensor, copy)
        assert copy.dtype == tensor.dtype
        assert copy.is_contiguous()
        assert copy.data_ptr() % 64 == 0
    assert kept[1].data_ptr() == kept[0].data_ptr() + 64

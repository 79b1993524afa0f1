from __future__ import annotations

import pytest

from hotswap.registry.domain.digests import Digest
from hotswap.serving.adapters.slots import Lease, SlotTable

A, B, C = (Digest.of(name.encode()) for name in "abc")


def slot_of(lease: Lease | None) -> int:
    assert lease is not None
    return lease.slot


def test_the_first_lease_is_new_and_the_second_is_not() -> None:
    table = SlotTable(2)
    first, second = table.acquire(A), table.acquire(A)
    assert first == Lease(slot=1, is_new=True)
    assert second == Lease(slot=1, is_new=False)


def test_a_leased_slot_is_never_evicted() -> None:
    table = SlotTable(2)
    table.acquire(A)
    table.acquire(B)
    assert table.acquire(C) is None
    assert set(table.loaded) == {A, B}


def test_one_lease_of_two_keeps_the_slot() -> None:
    table = SlotTable(1)
    table.acquire(A)
    table.acquire(A)
    table.release(A)
    assert table.acquire(B) is None


def test_the_slot_unused_for_longest_goes_first() -> None:
    table = SlotTable(2)
    slot_a = slot_of(table.acquire(A))
    table.acquire(B)
    table.release(A)
    table.release(B)
    assert slot_of(table.acquire(C)) == slot_a
    assert set(table.loaded) == {B, C}


def test_an_idle_adapter_is_found_loaded_again() -> None:
    table = SlotTable(2)
    slot = slot_of(table.acquire(A))
    table.release(A)
    assert table.acquire(A) == Lease(slot, is_new=False)


def test_slot_zero_is_never_given_out() -> None:
    table = SlotTable(3)
    assert sorted(slot_of(table.acquire(digest)) for digest in (A, B, C)) == [1, 2, 3]


def test_a_slot_whose_load_failed_is_loaded_again() -> None:
    table = SlotTable(1)
    table.acquire(A)
    table.forget(A)
    assert table.loaded == []
    assert table.acquire(A) == Lease(slot=1, is_new=True)


def test_releasing_more_than_was_leased_is_an_error() -> None:
    table = SlotTable(1)
    with pytest.raises(KeyError):
        table.release(A)

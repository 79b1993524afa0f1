"""Which adapter has which place beside the base weights. Counts and digests only, no tensors."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hotswap.registry.domain.digests import Digest


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to rely on a slot. `is_new`: the adapter must be loaded into it first."""

    slot: int
    is_new: bool


class SlotTable:
    """Slots 1 to `num_slots`; slot 0 means no adapter. A leased slot is never evicted.

    Of the slots nobody leases, the one unused for longest goes first.
    """

    def __init__(self, num_slots: int) -> None:
        self._free = list(range(num_slots, 0, -1))
        self._slot: dict[Digest, int] = {}
        self._num_leases: dict[Digest, int] = {}
        self._idle: OrderedDict[Digest, None] = OrderedDict()

    def acquire(self, adapter: Digest) -> Lease | None:
        """A lease for `adapter`, evicting an idle one if need be; None when all are leased."""
        slot = self._slot.get(adapter)
        is_new = slot is None
        if slot is None:
            if not self._free and not self._evict_oldest():
                return None
            slot = self._free.pop()
            self._slot[adapter] = slot
        self._idle.pop(adapter, None)
        self._num_leases[adapter] = self._num_leases.get(adapter, 0) + 1
        return Lease(slot, is_new)

    def release(self, adapter: Digest) -> None:
        self._num_leases[adapter] -= 1
        if not self._num_leases[adapter]:
            del self._num_leases[adapter]
            self._idle[adapter] = None

    def forget(self, adapter: Digest) -> None:
        """Give back a slot whose load failed, so that the next lease loads again."""
        self.release(adapter)
        if adapter in self._idle:
            del self._idle[adapter]
            self._free.append(self._slot.pop(adapter))

    @property
    def loaded(self) -> list[Digest]:
        return list(self._slot)

    def _evict_oldest(self) -> bool:
        if not self._idle:
            return False
        adapter, _ = self._idle.popitem(last=False)
        self._free.append(self._slot.pop(adapter))
        return True

"""Whose turn it is: counts the tokens each adapter was served. No tensors, no clocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

OUTPUT_WEIGHT = 2
"""A token that is decoded costs about twice what a token of a prompt costs, measured."""
MAX_REMEMBERED = 1024
"""Accounts without a request whose counters are remembered."""


class VirtualCounters:
    """Virtual token counters (Sheng et al. 2024, "Fairness in Serving Large Language Models").

    An account is an adapter, a stack of several, or the base. Invariant: an account that becomes
    active is not behind the smallest active counter, so nobody saves up service by asking for none.
    """

    def __init__(self) -> None:
        self._served: dict[Hashable, float] = {}
        self._num_sequences: dict[Hashable, int] = {}
        self._left: OrderedDict[Hashable, float] = OrderedDict()
        self._level = 0.0  # where the last active account stood when it left

    @property
    def num_active(self) -> int:
        return len(self._served)

    @property
    def num_remembered(self) -> int:
        """Accounts that are not active and may still be ahead."""
        return len(self._left)

    def served(self, account: Hashable) -> float:
        return self._served[account]

    def enter(self, account: Hashable) -> None:
        """One more sequence waits or runs."""
        if account not in self._served:
            level = min(self._served.values(), default=self._level)
            self._served[account] = max(self._left.pop(account, 0.0), level)
        self._num_sequences[account] = self._num_sequences.get(account, 0) + 1

    def leave(self, account: Hashable) -> None:
        self._num_sequences[account] -= 1
        if self._num_sequences[account]:
            return
        del self._num_sequences[account]
        self._level = self._left[account] = self._served.pop(account)
        if len(self._left) > MAX_REMEMBERED:
            self._left.popitem(last=False)

    def charge(self, account: Hashable, num_tokens: float) -> None:
        self._served[account] += num_tokens

"""How many different n-grams there are, in bounded memory: k minimum values (Bar-Yossef 2002)."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

K = 1 << 20
_PENDING = 1 << 18

Hashes = npt.NDArray[np.uint64]


class Distinct:
    """Counts the different ones of many hashes of 64 bits: exactly up to `k` of them, above that
    from the k-th smallest, with a relative standard error of 1/√k (0.1 % for 2²⁰).

    Memory: 8 bytes for each of k hashes.
    """

    def __init__(self, k: int = K) -> None:
        self.total = 0
        self._k = k
        self._smallest: Hashes = np.empty(0, dtype=np.uint64)
        self._is_over = False
        self._pending: list[Hashes] = []
        self._num_pending = 0

    def add(self, hashes: Hashes) -> None:
        self.total += len(hashes)
        if self._is_over:
            hashes = hashes[hashes < self._smallest[-1]]
        self._pending.append(hashes)
        self._num_pending += len(hashes)
        if self._num_pending >= _PENDING:
            self._merge()

    @property
    def count(self) -> float:
        self._merge()
        if not self._is_over:
            return len(self._smallest)
        return (self._k - 1) * 2.0**64 / float(self._smallest[-1])

    @property
    def share(self) -> float:
        """Of all that were added; 0 when there were none."""
        return self.count / self.total if self.total else 0.0

    def _merge(self) -> None:
        found = np.unique(np.concatenate([self._smallest, *self._pending]))
        self._is_over = self._is_over or len(found) > self._k
        self._smallest = found[: self._k].copy()
        self._pending, self._num_pending = [], 0


def words_of(text: str) -> Hashes:
    """The hashes of the text's words, which white space separates."""
    return np.fromiter(map(_word_hash, text.split()), dtype=np.uint64)


def pairs_of(words: Hashes) -> Hashes:
    """The hashes of the pairs of neighbouring words: splitmix64's finaliser over both."""
    mixed = words[:-1] * np.uint64(0x9E3779B97F4A7C15) + words[1:]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@lru_cache(maxsize=1 << 15)
def _word_hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8"), digest_size=8).digest(), "little")

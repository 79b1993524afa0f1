"""Which texts are the same, exactly or nearly. Knows texts and their indexes, not rows or files.

Texts are compared as they are `normalised`. The nearness of two is the Jaccard index
|A ∩ B| / |A ∪ B| of their sets of character 5-grams (Broder 1997). Candidates agree in a band of
their MinHash signatures; every pair is then verified on the texts, so none only seems near.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.data.example import Example
from hotswap.training.data.spool import LazySequence
from hotswap.training.data.texts import normalised, normalised_hash

_GRAM = 5
_NUM_HASHES = 128
# A pair of Jaccard 0.8 shares one of 25 bands of 5 hashes with probability 1 - (1 - 0.8⁵)²⁵ =
# 0.99995, one of 0.4 with 0.23. Below 0.6 (0.87) too many would be missed.
_NUM_BANDS, _BAND = 25, 5
_LOWEST = 0.6
_DEVIATIONS = 4  # of a signature's estimate, which pairs are spared before they are verified
_AT_ONCE = 4096  # grams hashed together: 4096 × 128 numbers of 4 bytes

Signatures = npt.NDArray[np.uint32]


def first_equal(hashes: bytes | bytearray) -> npt.NDArray[np.int64]:
    """For each of the hashes, which follow one another, the index of the first that is the same."""
    pairs = np.frombuffer(hashes, dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable: of equal ones the first comes first
    ordered = pairs[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = np.empty(len(order), dtype=np.int64)
    firsts[order] = order[is_first][np.cumsum(is_first) - 1]
    return firsts


def jaccard(one: str, other: str) -> float:
    """|A ∩ B| / |A ∪ B| of the sets of 5-grams of two normalised texts; 1 for equal ones."""
    a, b = _grams(one), _grams(other)
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def near_groups(texts: Sequence[str], threshold: float = 0.8) -> list[list[int]]:
    """Indexes of texts that are exact or near duplicates, each group ascending, the groups by their
    first index; a text that is like no other is in none.

    Near is a Jaccard index of at least `threshold` (0.6 to 1; others are an InvalidRequest), closed
    over chains: if a is near b and b near c, the three are one group, so that groups which are kept
    together in a split leave nothing near across it. Texts are looked up when they are compared
    and not kept, so `texts` may read them from a disk. Memory: about 0.6 kB a different text.
    """
    if not _LOWEST <= threshold <= 1:
        raise InvalidRequest(f"near duplicates: threshold {threshold} is not in {_LOWEST} to 1")
    hashes = bytearray()
    for text in texts:
        hashes += normalised_hash(text)
    firsts = first_equal(hashes)
    different = np.unique(firsts)
    parts = _Parts(len(different))
    signatures = _signatures(texts, different)
    for run in _runs(signatures):
        for one, other in _likely(run, signatures, parts, threshold):
            if jaccard(texts[int(different[one])], texts[int(different[other])]) >= threshold:
                parts.join(one, other)
            else:
                parts.keep_apart(one, other)
    part_of = parts.part[np.searchsorted(different, firsts)]
    order = np.argsort(part_of, kind="stable")
    starts = np.flatnonzero(np.diff(part_of[order], prepend=-1))
    ends = np.append(starts[1:], len(order))
    groups = np.flatnonzero(ends - starts > 1)
    return sorted(order[starts[group] : ends[group]].tolist() for group in groups)


class _Parts:
    """Disjoint sets of 0 … n-1. Invariant: `part[i] == part[j]` exactly when i and j were joined,
    directly or through others."""

    def __init__(self, count: int) -> None:
        self.part = np.arange(count)
        self._members: dict[int, list[int]] = {}  # of parts that have more than one
        self._apart: set[tuple[int, int]] = set()

    def join(self, one: int, other: int) -> None:
        small, large = sorted(
            (int(self.part[one]), int(self.part[other])),
            key=lambda part: len(self._members.get(part, "1")),
        )
        if small != large:
            moved = self._members.pop(small, [small])
            self.part[moved] = large
            self._members.setdefault(large, [large]).extend(moved)

    def keep_apart(self, one: int, other: int) -> None:
        self._apart.add((one, other))

    def open(self, one: int, other: int) -> bool:
        """Neither joined nor compared."""
        return self.part[one] != self.part[other] and (one, other) not in self._apart


def _grams(text: str) -> set[str]:
    """A text shorter than a gram is its only gram."""
    whole = normalised(text)
    return {whole[i : i + _GRAM] for i in range(max(1, len(whole) - _GRAM + 1))}


def _signatures(texts: Sequence[str], indexes: npt.NDArray[np.int64]) -> Signatures:
    """(len(indexes), 128)"""
    empty = MinHash(_NUM_HASHES, hashfunc=zlib.crc32)
    signatures = np.empty((len(indexes), _NUM_HASHES), dtype=np.uint32)
    for row, index in enumerate(indexes):
        signature = empty.copy()
        grams = [gram.encode("utf-8") for gram in _grams(texts[int(index)])]
        for start in range(0, len(grams), _AT_ONCE):
            signature.update_batch(grams[start : start + _AT_ONCE])
        signatures[row] = signature.hashvalues
    return signatures


def _runs(signatures: Signatures) -> Iterator[npt.NDArray[Any]]:
    """Ascending rows that agree in one band, two or more at a time."""
    for band in range(_NUM_BANDS):
        part = np.ascontiguousarray(signatures[:, band * _BAND : (band + 1) * _BAND])
        values = part.view(f"V{part.itemsize * _BAND}").ravel()
        _, value_of, counts = np.unique(values, return_inverse=True, return_counts=True)
        order = np.argsort(value_of, kind="stable")
        ends = np.cumsum(counts)
        for value in np.flatnonzero(counts > 1):
            yield order[ends[value] - counts[value] : ends[value]]


def _likely(
    run: npt.NDArray[Any], signatures: Signatures, parts: _Parts, threshold: float
) -> Iterator[tuple[int, int]]:
    """Pairs of a run whose estimate allows the threshold and that are still open when asked for."""
    slack = _DEVIATIONS * (threshold * (1 - threshold) / _NUM_HASHES) ** 0.5
    for position in range(1, len(run)):
        one = int(run[position])
        others = run[:position][parts.part[run[:position]] != parts.part[one]]
        agreement = (signatures[others] == signatures[one]).mean(axis=1)
        for other in others[agreement >= threshold - slack]:
            if parts.open(int(other), one):
                yield int(other), one


def alike(examples: Sequence[Example]) -> list[list[int]]:
    """Groups of rows whose questions are duplicates or near-duplicates, each row in one group."""
    groups = near_groups(Questions(examples))
    grouped = {row for group in groups for row in group}
    return sorted([*groups, *([row] for row in range(len(examples)) if row not in grouped)])


class Questions(LazySequence[str]):
    """What users say before the last answer of each row, read when it is asked for."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[str]:
        return (example.question for example in self._examples)

    def at(self, index: int) -> str:
        return self._examples[index].question

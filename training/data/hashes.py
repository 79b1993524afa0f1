"""Which of many texts are the same, by hashes in arrays: no text is held."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from hotswap.training.data.formats import Example

HASH_BYTES = 16
MAX_CHARACTERS = 1000


def text_hash(text: str) -> bytes:
    """16 bytes that stand for the text: two of 10⁹ meet with a probability of 10⁻²¹."""
    return blake2b(text.encode("utf-8"), digest_size=HASH_BYTES).digest()


def first_equal(hashes: bytes | bytearray) -> npt.NDArray[np.int64]:
    """For each of the hashes, which follow one another, the index of the first that is the same."""
    pairs = np.frombuffer(hashes, dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))  # stable: of equal ones the first comes first
    ordered = pairs[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    found = np.empty(len(order), dtype=np.int64)
    found[order] = order[is_first][np.cumsum(is_first) - 1]
    return found


class Texts(Iterable[str]):
    """Texts of rows, which are read again each time: `of` gives those of one row."""

    def __init__(self, examples: Sequence[Example], of: Callable[[Example], Iterable[str]]) -> None:
        self._examples = examples
        self._of = of

    def __iter__(self) -> Iterator[str]:
        for example in self._examples:
            yield from self._of(example)


class Counts:
    """How often each of many texts came. `texts` can be gone through again: it is, for the texts
    that are asked for."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        hashes = bytearray()
        for text in texts:
            hashes += text_hash(text)
        self.total = len(hashes) // HASH_BYTES
        # How often a text came, at the index where it came first.
        self._counts = np.bincount(first_equal(hashes), minlength=self.total)

    @property
    def distinct(self) -> int:
        return int(np.count_nonzero(self._counts))

    @property
    def each(self) -> list[int]:
        """The counts, in the order in which their texts came first."""
        return [int(count) for count in self._counts[self._counts > 0]]

    def most_frequent(self, limit: int) -> list[tuple[str, int]]:
        """The most frequent first, equally frequent ones in order of text; texts are cut after
        MAX_CHARACTERS."""
        found = heapq.nsmallest(
            limit,
            (
                (-int(count), text[:MAX_CHARACTERS])
                for text, count in zip(self._texts, self._counts, strict=True)
                if count
            ),
        )
        return [(text, -count) for count, text in found]

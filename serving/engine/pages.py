"""The pages of the cache of keys and values: who has which, and what is in them. Counts only."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable

PAGE = 16
"""Tokens whose keys and values a page holds; the kernels know it as PAGE, too."""


def num_pages_of(num_tokens: int) -> int:
    """How many pages hold so many tokens."""
    return -(-num_tokens // PAGE)


class PagePool:
    """Pages 0 to `num_pages` - 1, each with a number of users.

    A full page can be kept under a key of all that its contents depend on. Invariant: a
    kept page is not written until it is evicted, and only one that nobody uses is evicted, the one
    unused for longest first.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._num_users = [0] * num_pages
        self._key: dict[int, Hashable] = {}
        self._kept: dict[Hashable, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self.num_evicted = 0

    @property
    def num_free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def num_idle(self) -> int:
        """Pages that are kept and that nobody uses."""
        return len(self._idle)

    def num_available(self, cached: Iterable[int] = ()) -> int:
        """How many pages can be taken beside those `cached`."""
        return len(self._free) + len(self._idle) - sum(page in self._idle for page in cached)

    def num_held_alone(self, pages: Iterable[int], cached: Collection[int] = ()) -> int:
        """How many of `pages` become available beside those `cached` when their user gives them
        back."""
        return sum(self._num_users[page] == 1 and page not in cached for page in pages)

    def find(self, keys: Iterable[Hashable]) -> list[int]:
        """The pages kept under the first of `keys`, up to the first that is not there."""
        cached: list[int] = []
        for key in keys:
            page = self._kept.get(key)
            if page is None:
                break
            cached.append(page)
        return cached

    def share(self, cached: Iterable[int]) -> array[int]:
        """Use what `find` gave."""
        pages = array("i", cached)
        for page in pages:
            self._num_users[page] += 1
            self._idle.pop(page, None)
        return pages

    def take(self, num_pages: int) -> array[int] | None:
        """So many pages to write, evicting kept ones if need be; None when fewer are available."""
        if num_pages > self.num_available():
            return None
        while len(self._free) < num_pages:
            page, _ = self._idle.popitem(last=False)
            del self._kept[self._key.pop(page)]
            self._free.append(page)
            self.num_evicted += 1
        pages = array("i", (self._free.pop() for _ in range(num_pages)))
        for page in pages:
            self._num_users[page] = 1
        return pages

    def keep(self, page: int, key: Hashable) -> None:
        """Let others find a page that is full; of two with one key the first is kept."""
        if key not in self._kept:
            self._kept[key] = page
            self._key[page] = key

    def give_back(self, pages: array[int]) -> None:
        """The last first: a page is of no use without those before it."""
        for page in reversed(pages):
            self._num_users[page] -= 1
            if self._num_users[page]:
                continue
            if page in self._key:
                self._idle[page] = None
            else:
                self._free.append(page)

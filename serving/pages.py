"""The pages of the cache of keys and values: who has which. Counts only, no tensors."""

from __future__ import annotations

from array import array

PAGE = 16
"""Tokens whose keys and values a page holds; the kernels know it as PAGE, too."""


def num_pages_of(num_tokens: int) -> int:
    """How many pages hold so many tokens."""
    return -(-num_tokens // PAGE)


class PagePool:
    """Pages 0 to `num_pages` - 1; each is free or belongs to one sequence."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, num_pages: int) -> array[int] | None:
        """So many pages, or None when fewer are free."""
        if num_pages > len(self._free):
            return None
        return array("i", (self._free.pop() for _ in range(num_pages)))

    def give_back(self, pages: array[int]) -> None:
        self._free.extend(reversed(pages))

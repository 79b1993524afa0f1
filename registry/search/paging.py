"""A listing's pages as one list. Knows neither what is listed nor where."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

PAGE = 500
ItemT = TypeVar("ItemT")


def read_pages(
    page_behind: Callable[[ItemT | None, int], list[ItemT]], limit: int | None = None
) -> list[ItemT]:
    """The pages one after the other, up to `limit` items (None: all).

    `page_behind` gets the last item so far, None at first, and how many to read at most.
    """
    items: list[ItemT] = []
    while limit is None or len(items) < limit:
        size = PAGE if limit is None else min(PAGE, limit - len(items))
        page = page_behind(items[-1] if items else None, size)
        items += page
        if len(page) < size:
            break
    return items

"""Pages of adapters and of versions, read from the catalog."""

from __future__ import annotations

from collections.abc import Callable

from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AdapterRef, AdapterSummary, AdapterVersion
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.search.parser import parse_filter

MAX_PAGE = 1000


class Listing:
    """A page starts behind a key that never changes, so what is added meanwhile moves nothing.

    Invariant: `catch_up` has told the catalog of what other processes did before a page is read.
    """

    def __init__(self, catalog: Catalog, catch_up: Callable[[], None]) -> None:
        self._catalog = catalog
        self._catch_up = catch_up

    def adapters(self, after: str, limit: int) -> list[AdapterSummary]:
        _check_limit(limit)
        self._catch_up()
        return self._catalog.adapters(after, limit)

    def versions(
        self, expression: str, after: AdapterRef | None, limit: int
    ) -> list[AdapterVersion]:
        """Raises InvalidFilter, or InvalidRequest when `after` names no number."""
        _check_limit(limit)
        start = None
        if after is not None:
            if after.number is None:
                raise InvalidRequest(
                    f"after is {after}; give the last version of the page before (name:number)",
                    param="after",
                )
            start = (after.name, after.number)
        wanted = parse_filter(expression)
        self._catch_up()
        return self._catalog.search(wanted, start, limit)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit is {limit}; give 1 to {MAX_PAGE}", param="limit")

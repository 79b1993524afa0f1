"""Pages of adapters and of versions, read from the catalog."""

from __future__ import annotations

from registry.adapters import AdapterRef, AdapterSummary, AdapterVersion
from registry.database.catalog import Catalog
from registry.errors import InvalidRequest
from registry.search.parser import parse_filter

MAX_PAGE = 1000


class Listing:
    """A page starts behind a key that never changes, so what is added meanwhile moves nothing."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def adapters(self, after: str, limit: int) -> list[AdapterSummary]:
        _check_limit(limit)
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
        return self._catalog.search(parse_filter(expression), start, limit)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit is {limit}; give 1 to {MAX_PAGE}", param="limit")

"""Lists of adapters, of their versions and of their states, read from the catalog."""

from __future__ import annotations

from collections.abc import Callable

from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import (
    AdapterRef,
    AdapterSummary,
    AdapterVersion,
    VersionState,
    check_name,
)
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.ledger.states import GONE, VersionStates
from hotswap.registry.ledger.versions import VersionIndex
from hotswap.registry.search.parser import parse_filter

MAX_PAGE = 1000


class Listing:
    """Implements Adapters. A page starts behind a key that never changes, so what is added
    meanwhile moves nothing.

    Invariant: `catch_up` has added to the catalog what other processes did before a page is read.
    """

    def __init__(
        self,
        catalog: Catalog,
        versions: VersionIndex,
        states: VersionStates,
        catch_up: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._versions = versions
        self._states = states
        self._catch_up = catch_up

    def all(self, *, after: str = "", limit: int = 100) -> list[AdapterSummary]:
        _check_limit(limit)
        self._catch_up()
        return self._catalog.adapters(after, limit)

    def search(
        self, expression: str, *, after: AdapterRef | None = None, limit: int = 100
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

    def versions(self, name: str) -> list[AdapterVersion]:
        self._versions.catch_up(check_name(name))
        stored = self._catalog.versions(name)
        if not stored:
            raise self._versions.no_adapter(name)
        gone = {s.number for s in self._states.all(name) if s.state in GONE}
        return [version for version in stored if version.number not in gone]

    def states(self, name: str) -> list[VersionState]:
        self._versions.catch_up(check_name(name))
        self._versions.require_adapter(name)
        return self._states.all(name)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit is {limit}; give 1 to {MAX_PAGE}", param="limit")

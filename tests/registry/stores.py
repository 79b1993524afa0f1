"""Stores that let something happen at a chosen moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hotswap.registry.domain.layout import VERSIONS
from hotswap.registry.storage.local import LocalStore


class MeanwhileStore(LocalStore):
    """Runs `meanwhile` once, right after the versions were listed."""

    meanwhile: Callable[[], object] | None = None

    def list(self, prefix: str) -> Iterator[str]:
        found = list(super().list(prefix))
        if prefix == VERSIONS and self.meanwhile is not None:
            act, self.meanwhile = self.meanwhile, None
            act()
        yield from found

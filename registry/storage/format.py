"""The number of a store's format, and who may open it. Knows the number, not what it stands for.

A format changes when an older release would misread what a newer one writes. Every store keeps the
numbers that it has had as objects `formats/<number>.json`, each written once; the highest counts.
A store without any was made by release 0.1.0 and has format 1.
"""

from __future__ import annotations

import json
from importlib.metadata import version

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.errors import StoreTooNew
from hotswap.registry.domain.layout import FORMATS, format_key, parse_format_key
from hotswap.registry.storage.objects import ObjectStore, probe

FORMAT = 1
"""What this release writes, and the newest that it reads."""


def admit(store: ObjectStore) -> Capabilities:
    """What the store was measured to do, and its format written down.

    Raises StoreTooNew, before anything is written, when a newer release has taken the store over,
    and StoreUnsuitable when it does not honour create-once writes.
    """
    require_known_format(store)
    capabilities = probe(store)
    record_format(store)
    return capabilities


def require_known_format(store: ObjectStore) -> None:
    """Raises StoreTooNew when a newer release has taken the store over. Writes nothing."""
    stored = _format_of(store)
    if stored > FORMAT:
        raise StoreTooNew(
            f"{store.location} has format {stored}, and hotswap {version('hotswap')} reads up to "
            f"format {FORMAT}; use the release that wrote it, or a later one",
            found=stored,
            known=FORMAT,
        )


def record_format(store: ObjectStore) -> None:
    """Write down that the store has this release's format, unless it says so already."""
    record = {"format": FORMAT, "release": version("hotswap")}
    store.create(format_key(FORMAT), json.dumps(record).encode())


def _format_of(store: ObjectStore) -> int:
    numbers = (parse_format_key(key) for key in store.list(FORMATS))
    return max((number for number in numbers if number is not None), default=1)

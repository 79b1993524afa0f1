"""Which servers follow this registry, how far each has come, and what each holds.

Reports are kept in memory. Sweeps run over the store alone and read what is loaded from a note in
it; a note is written again only when that changes or it gets old.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

from pydantic import ValidationError

from hotswap.registry.clock import Clock
from hotswap.registry.domain.errors import BlobCorrupted, Forbidden, ServerBusy
from hotswap.registry.domain.layout import SERVERS, server_key
from hotswap.registry.domain.servers import ServerInfo, ServerReport, check_server_id
from hotswap.registry.domain.values import first_problem
from hotswap.registry.storage.objects import ObjectMissing, ObjectStore

# A server that has not reported for this long is not waited for.
LIVE = timedelta(seconds=30)
NOTE_AGE = timedelta(minutes=5)
# How long a note counts: a heartbeat may be late, the clocks of registry and sweep may differ.
NOTE_COUNTS = 3 * NOTE_AGE
MAX_SERVERS = 1024


class Servers:
    """Invariant: a server id belongs to the token that reported it first. Thread-safe."""

    def __init__(self, store: ObjectStore, now: Clock) -> None:
        self._store = store
        self._now = now
        self._started_at = now()
        self._lock = threading.Lock()
        self._known: dict[str, ServerInfo] = {}
        self._noted: dict[str, ServerInfo] = {}  # as last written to the store

    def report(self, server_id: str, report: ServerReport, *, by: str = "") -> ServerInfo:
        """Keep what the server says; raises Forbidden when the id is another token's."""
        info = ServerInfo(
            **report.model_dump(), server_id=check_server_id(server_id), by=by, seen_at=self._now()
        )
        self._refuse_other(server_id, by)
        with self._lock:
            self._drop_silent()
            if server_id not in self._known and len(self._known) >= MAX_SERVERS:
                raise ServerBusy(f"{MAX_SERVERS} servers report already; no more are kept")
            self._known[server_id] = info
        self._note(info)
        return info

    def forget(self, server_id: str, *, by: str = "") -> None:
        """The server stops; one that is not known is no error."""
        self._refuse_other(check_server_id(server_id), by)
        with self._lock:
            self._known.pop(server_id, None)
            self._noted.pop(server_id, None)
        self._store.delete(server_key(server_id))

    def all(self) -> list[ServerInfo]:
        """The live servers in order of id.

        Shortly after a start, when they may not have reported yet, also those of the notes.
        """
        live: dict[str, ServerInfo] = {}
        now = self._now()
        if now - self._started_at < LIVE:
            live = {note.server_id: note for note in read_servers(self._store, now)}
        with self._lock:
            self._drop_silent()
            live |= self._known
        return [live[server_id] for server_id in sorted(live)]

    def _drop_silent(self) -> None:
        now = self._now()
        for server_id in [s for s, info in self._known.items() if now - info.seen_at > LIVE]:
            del self._known[server_id]

    def _refuse_other(self, server_id: str, by: str) -> None:
        with self._lock:
            known = self._known.get(server_id)
        if known is None:  # this process may have started after the server
            known = _read(self._store, server_key(server_id))
        if known is not None and known.by != by:
            raise Forbidden(f"server {server_id} reports with another token than {by!r}")

    def _note(self, info: ServerInfo) -> None:
        with self._lock:
            noted = self._noted.get(info.server_id)
            if noted and noted.loaded == info.loaded and info.seen_at - noted.seen_at < NOTE_AGE:
                return
            self._noted[info.server_id] = info
        data = json.dumps(info.model_dump(mode="json"), indent=1).encode()
        self._store.put(server_key(info.server_id), [data])


def read_servers(store: ObjectStore, now: datetime) -> Iterator[ServerInfo]:
    """What the notes of servers say that still count; raises BlobCorrupted for a damaged one."""
    for key in list(store.list(SERVERS)):
        info = _read(store, key)
        if info is not None and now - info.seen_at <= NOTE_COUNTS:
            yield info


def _read(store: ObjectStore, key: str) -> ServerInfo | None:
    try:
        return ServerInfo.model_validate_json(b"".join(store.open(key)))
    except ObjectMissing:
        return None
    except ValidationError as error:
        raise BlobCorrupted(
            f"{store.location}, {key} is not a server's note: {first_problem(error)}; remove it"
        ) from None

"""The thread that follows the registry's events, keeps the version table current, and reports."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import CursorAhead, HotswapError, Unavailable
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.servers import HEARTBEAT_S, ServerReport
from hotswap.serving.aliases.version_table import VersionTable

_log = logging.getLogger(__name__)

PAGE = 1000
MIN_RETRY_S = 0.1
MAX_RETRY_S = 2.0
JOIN_S = 1.0
NUM_DEREGISTRATIONS = 3


class Follower:
    """Invariant: the cursor it reports is that of the last event the table has applied.

    `start` before use, `stop` after. An outage of the registry ends nothing: it is tried again,
    and the events that were missed come then.
    """

    def __init__(
        self,
        registry: AdapterRegistry,
        table: VersionTable,
        *,
        base: str,
        loaded: Callable[[], Iterable[Digest]],
        check: Callable[[str], object],
    ) -> None:
        """`loaded` gives the digests of the adapters that are held in memory; `check` raises
        for a reference whose target this server will not serve."""
        self.server_id = _server_id()
        self._registry = registry
        self._table = table
        self._base = base
        self._loaded = loaded
        self._check = check
        self._cursor: int | None = None
        self._is_following: bool | None = None  # not known yet
        self._reported_at = float("-inf")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Deregister, which also ends the wait for events at the registry."""
        self._stopping.set()
        for _ in range(NUM_DEREGISTRATIONS):
            is_deregistered = self._deregister()
            self._thread.join(JOIN_S)
            if not is_deregistered:
                return  # the thread is not waiting at a registry that nobody reaches
            if not self.is_running:
                break
        self._deregister()  # a report may have crossed the first one

    def health(self) -> dict[str, Any]:
        return {"follows_events": bool(self._is_following), "event": self._cursor}

    def _deregister(self) -> bool:
        try:
            self._registry.events.forget(self.server_id)
        except HotswapError as error:
            _log.info("this server stops, and the registry did not answer: %s", error)
            return False
        return True

    def _run(self) -> None:
        retry_s = MIN_RETRY_S
        while not self._stopping.is_set():
            try:
                self._step()
                retry_s = MIN_RETRY_S
            except CursorAhead as error:
                _log.warning("starting over: %s", error)
                self._table.clear()
                self._cursor = None
            except HotswapError as error:
                self._lose(error)
                self._stopping.wait(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
            except Exception:
                _log.exception("following the registry's events failed")
                self._lose(None)
                self._stopping.wait(MAX_RETRY_S)

    def _step(self) -> None:
        """Read the next events, waiting for them once the feed is known to work; report."""
        wait_s = HEARTBEAT_S if self._is_following and self._cursor is not None else 0.0
        page = self._registry.events.read(self._cursor, limit=PAGE, wait_s=wait_s)
        for event in page.events:
            self._table.apply(event)
        has_moved = page.cursor != self._cursor
        self._cursor = page.cursor
        if not self._is_following:
            self._is_following = True
            self._table.follow(True)
            _log.info("following the registry's events from %d", page.cursor)
        if has_moved or time.monotonic() - self._reported_at >= HEARTBEAT_S:
            self._report(page.cursor)

    def _report(self, cursor: int) -> None:
        if self._stopping.is_set():
            return
        aliases = self._table.served()
        refused = {ref: reason for ref in aliases if (reason := self._refusal(ref))}
        report = ServerReport(
            base=self._base,
            cursor=cursor,
            aliases={ref: digest for ref, digest in aliases.items() if ref not in refused},
            refused=refused,
            loaded=tuple(sorted(self._loaded(), key=str)),
        )
        self._reported_at = time.monotonic()
        try:
            self._registry.events.report(self.server_id, report)
        except Unavailable:
            raise
        except HotswapError as error:  # events may be followed all the same
            _log.warning("the registry refuses what this server reports: %s", error)

    def _refusal(self, ref: str) -> str | None:
        """Why the target of the alias is not served; None when it is, or cannot be told now."""
        try:
            self._check(ref)
        except Unavailable:
            return None
        except HotswapError as error:
            return error.message
        return None

    def _lose(self, error: HotswapError | None) -> None:
        if self._is_following is not False:
            _log.warning("events are not followed, each request asks the registry: %s", error)
        self._is_following = False
        self._table.follow(False)


def _server_id() -> str:
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:63] or "host"
    return f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

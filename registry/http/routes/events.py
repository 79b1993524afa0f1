"""The feed of events over HTTP: long poll, or server-sent events that can be resumed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from hotswap.registry.domain.access import Principal
from hotswap.registry.domain.errors import HotswapError, InvalidRequest
from hotswap.registry.domain.event import MAX_PAGE, MAX_WAIT_S, Event, EventPage
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.http.auth import principal_of

EVENT_STREAM = "text/event-stream"
# Requests that wait hold a thread each. They have their own, so that they take none from others.
MAX_WAITING = 256
KEEP_ALIVE_S = 10.0
# A client reconnects with its cursor by itself; until then a revoked token would go on reading.
MAX_STREAM_S = 300.0


def add_event_routes(
    router: APIRouter, registry: AdapterRegistry, leaving: threading.Event
) -> None:
    feed = _Feed(registry, leaving)

    @router.get("/events", response_model=EventPage)
    async def events(
        request: Request,
        after: Annotated[int | None, Query(ge=0)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0,
    ) -> EventPage | StreamingResponse:
        """Without `after`, nothing but the cursor of the log's end."""
        principal = principal_of(request)
        if EVENT_STREAM not in request.headers.get("accept", ""):
            return await feed.page(principal, after, limit, wait_s)
        first = await feed.page(principal, _resumed(request, after), limit, 0)
        return StreamingResponse(feed.stream(principal, first, limit), media_type=EVENT_STREAM)

    @router.get("/webhooks")
    def webhooks() -> dict[str, Any]:
        return {"webhooks": registry.events.webhooks()}


def _resumed(request: Request, after: int | None) -> int | None:
    """Where a client that was cut off goes on; it sends the last id it has seen."""
    last = request.headers.get("last-event-id")
    if last is None:
        return after
    if not last.isascii() or not last.isdigit() or len(last) > 18:
        raise InvalidRequest(f"Last-Event-ID is {last[:50]!r}; give the id of an event")
    return int(last)


class _Feed:
    """Invariant: what is handed on is about names the principal may pull, and nothing else."""

    def __init__(self, registry: AdapterRegistry, leaving: threading.Event) -> None:
        self._registry = registry
        self._leaving = leaving
        self._threads: anyio.CapacityLimiter | None = None

    async def page(
        self, principal: Principal, after: int | None, limit: int, wait_s: float
    ) -> EventPage:
        """The next events the principal may see. Others end the wait too: the cursor of a server
        that follows must pass them, or it would seem to be behind."""
        page = await self._read(after, limit, 0 if self._leaving.is_set() else wait_s)
        seen = tuple(e for e in page.events if principal.allows("pull", e.version.name))
        return EventPage(events=seen, cursor=page.cursor)

    async def stream(self, principal: Principal, page: EventPage, limit: int) -> AsyncIterator[str]:
        """Server-sent events: the id is the cursor, comments keep the connection alive."""
        end = time.monotonic() + MAX_STREAM_S
        try:
            while True:
                yield "".join(map(_text, page.events)) + f": \nid: {page.cursor}\n\n"
                if self._leaving.is_set() or time.monotonic() >= end:
                    return
                page = await self.page(principal, page.cursor, limit, KEEP_ALIVE_S)
        except HotswapError as error:
            yield f"event: error\ndata: {json.dumps(error.body())}\n\n"

    async def _read(self, after: int | None, limit: int, wait_s: float) -> EventPage:
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(MAX_WAITING)
        return await anyio.to_thread.run_sync(
            lambda: self._registry.events.read(after, limit=limit, wait_s=wait_s),
            limiter=self._threads,
        )


def _text(event: Event) -> str:
    return f"id: {event.sequence}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"

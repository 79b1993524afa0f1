"""Assembles planes into one HTTP application and runs it. Knows no plane by name but its own.

A plane is a set of routes with a lifespan. One process can serve all planes on one port, or one.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hotswap.registry.domain.access import AccessControl
from hotswap.registry.domain.errors import (
    AdapterNotFound,
    HotswapError,
    InvalidRequest,
    NotFound,
    RequestTooLarge,
    Unavailable,
)
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.http.auth import (
    Authentication,
    RequestId,
    principal_of,
    refusal,
    require_closed,
)
from hotswap.registry.http.routes.adapters import registry_router
from hotswap.registry.http.routes.rules import REGISTRY_RULES
from hotswap.registry.http.rules import AccessRule, Rules

MAX_BODY_BYTES = 2 << 20
LEAVE_INTERVAL_S = 0.2
BLOB_PATH = "/v1/blobs/"  # bodies of this path are limited by their own route


@asynccontextmanager
async def _no_lifespan() -> AsyncIterator[None]:
    yield


def _no_facts() -> dict[str, Any]:
    return {}


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Plane:
    """Routes, what must live around them, and the facts they add to `/health` under `name`.

    `leave` ends requests that wait for something to happen. It is called when the server is about
    to stop, again and again until every request has ended. `max_body_bytes` are paths whose bodies
    may be larger than those of others; their routes must not keep them in memory. `rules` say which
    scope each route needs; a route that none of them names needs `admin`.
    """

    name: str
    router: APIRouter
    lifespan: Callable[[], AbstractAsyncContextManager[None]] = _no_lifespan
    health: Callable[[], dict[str, Any]] = _no_facts
    leave: Callable[[], None] = _nothing
    max_body_bytes: Mapping[str, int] = field(default_factory=dict)
    rules: Sequence[AccessRule] = ()


class ServedRegistry(AdapterRegistry, Protocol):
    """A registry in this process, whose waits for events its server can end."""

    def wake(self) -> None: ...


class Delivery(Protocol):
    """What sends events to webhooks between `start` and `stop`."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


def registry_plane(registry: ServedRegistry, delivery: Delivery | None = None) -> Plane:
    """The plane over a registry that is open already; who opened it closes it.

    The delivery lives as long as the plane.
    """
    leaving = threading.Event()

    def leave() -> None:
        leaving.set()
        registry.wake()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        if delivery is not None:
            await run_in_threadpool(delivery.start)
        try:
            yield
        finally:
            if delivery is not None:
                await run_in_threadpool(delivery.stop)

    return Plane(
        name="registry",
        router=registry_router(registry, leaving),
        rules=REGISTRY_RULES,
        lifespan=lifespan,
        health=lambda: {"store": asdict(registry.blobs.capabilities)},
        leave=leave,
    )


def assemble(planes: Sequence[Plane], access: AccessControl | None = None) -> FastAPI:
    """One application with the routes of all planes; lifespans are entered in order.

    Without `access` every request counts as anyone's, and `run` listens on loopback only.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for plane in planes:
                await stack.enter_async_context(plane.lifespan())
            yield

    app = FastAPI(title="Hotswap", lifespan=lifespan)
    app.state.planes = tuple(planes)
    app.state.access = access
    limits = {path: size for plane in planes for path, size in plane.max_body_bytes.items()}
    app.add_middleware(BodyLimit, max_bytes=limits)
    if access is not None:
        rules = Rules(rule for plane in planes for rule in plane.rules)
        app.add_middleware(Authentication, access=access, rules=rules)
    app.add_middleware(RequestId)  # the last one added is the outermost
    _install_error_handlers(app)

    @app.get("/health")
    def health() -> dict[str, Any]:
        facts = {plane.name: plane.health() for plane in planes}
        return {
            "status": "ok",
            "planes": [plane.name for plane in planes],
            **{name: fact for name, fact in facts.items() if fact},
        }

    for plane in planes:
        app.include_router(plane.router)
    return app


def run(app: FastAPI, host: str, port: int, when_ready: Callable[[], None] = lambda: None) -> None:
    """Serve until interrupted; prints one line when connections are accepted, then `when_ready`.

    Port 0 takes a free one. Raises Unavailable when the address cannot be listened on, or must
    not be because the server is open.
    """
    how = require_closed(app.state.access, host)
    with listen(host, port) as listening:
        names = ", ".join(plane.name for plane in app.state.planes)
        where = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        line = f"hotswap: listening on {where} ({names}){how}"

        def announce() -> None:
            print(line, flush=True)
            when_ready()

        Server(app, "warning", announce).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises Unavailable when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror or error}; give another --port"
        ) from None
    # Connections inherit it; asyncio sets it only for sockets with an explicit protocol. Without it
    # each answer on a kept connection waits 40 ms for the client's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class Server(uvicorn.Server):
    """Calls `on_start` once connections are accepted, and ends waiting requests when it stops."""

    def __init__(self, app: FastAPI, log_level: str, on_start: Callable[[], None]) -> None:
        super().__init__(uvicorn.Config(app, log_level=log_level, lifespan="on"))
        self._planes: Sequence[Plane] = app.state.planes
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.ensure_future(super().shutdown(sockets))
        while not ending.done():
            for plane in self._planes:
                plane.leave()
            await asyncio.wait({ending}, timeout=LEAVE_INTERVAL_S)
        await ending


class BodyLimit:
    """Refuses request bodies above MAX_BODY_BYTES, or what `max_bytes` says for a path, while they
    arrive, so none fills the memory."""

    def __init__(self, app: ASGIApp, max_bytes: Mapping[str, int]) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(BLOB_PATH):
            await self._app(scope, receive, send)
            return
        size_bytes = 0
        max_bytes = self._max_bytes.get(scope["path"], MAX_BODY_BYTES)

        async def limited() -> Message:
            nonlocal size_bytes
            message = await receive()
            size_bytes += len(message.get("body", b""))
            if size_bytes > max_bytes:
                # FastAPI lets only this class pass from the reading of a body to the handlers.
                raise HTTPException(413, f"a request body may have at most {max_bytes} bytes")
            return message

        await self._app(scope, limited, send)


def _install_error_handlers(app: FastAPI) -> None:
    """Every error leaves as HotswapError.body() with its status, whatever raised it."""

    @app.exception_handler(HotswapError)
    async def on_error(request: Request, error: HotswapError) -> JSONResponse:
        if isinstance(error, AdapterNotFound):
            error = error.seen_by(principal_of(request).may_name)
        return _answer(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        given = problem.get("input")
        given_text = f", found {given!r}" if isinstance(given, int | float) else ""
        return _answer(InvalidRequest(f"{where}: {problem['msg']}{given_text}", param=where))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        asked = f"{request.method} {request.url.path}"
        if error.status_code == 404:
            return _answer(NotFound(f"there is no route {asked}; see /docs"))
        if error.status_code == 413:
            return _answer(RequestTooLarge(str(error.detail)))
        answer = _answer(InvalidRequest(f"{asked}: {error.detail}"), error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def on_bug(_: Request, __: Exception) -> JSONResponse:
        return _answer(HotswapError("an internal error; the server's log has the trace"))


def _answer(error: HotswapError, status: int | None = None) -> JSONResponse:
    return refusal(error) if status is None else JSONResponse(error.body(), status)

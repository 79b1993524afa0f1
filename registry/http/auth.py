"""Authentication of HTTP requests, in one place, and the id each request goes by.

Every request passes here before any route: what is not public needs a token, and the planes'
rules say which scope. What no rule names needs `admin`, so a new route is closed until a rule
opens it.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from urllib.parse import parse_qs

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hotswap.registry.access.audit import request_id
from hotswap.registry.domain.access import ANYONE, AccessControl, Principal
from hotswap.registry.domain.errors import HotswapError, Unauthenticated, Unavailable
from hotswap.registry.http.rules import PUBLIC, Rules

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestId:
    """Takes the request's `x-request-id`, or makes one; it is in the answer and the audit log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(REQUEST_ID, "")
        name = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = name
            await send(message)

        before = request_id.set(name)
        try:
            await self._app(scope, receive, named)
        finally:
            request_id.reset(before)


class Authentication:
    """Lets a request through with its Principal, or answers 401 or 403 in its place."""

    def __init__(self, app: ASGIApp, access: AccessControl, rules: Rules) -> None:
        self._app = app
        self._access = access
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            raise RuntimeError("there are no websocket routes")
        if scope["type"] != "http" or scope["path"] in PUBLIC:
            await self._app(scope, receive, send)
            return
        try:
            token = _bearer(Headers(scope=scope).get("authorization"))
            principal = await run_in_threadpool(self._access.principal, token)
            self._rules.authorize(principal, scope["method"], scope["path"], _ref_name(scope))
        except HotswapError as error:
            await refusal(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)


def principal_of(request: Request) -> Principal:
    """Who sent the request; ANYONE in an application without access control."""
    principal: Principal = getattr(request.state, "principal", ANYONE)
    return principal


def refusal(error: HotswapError) -> JSONResponse:
    """The answer to a request that may not pass, or to any other error."""
    answer = JSONResponse(error.body(), error.status)
    if error.status == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="hotswap"'
    elif error.status == 403:
        missing = str(error.fields.get("scope", "")).encode("ascii", "ignore").decode()
        answer.headers["WWW-Authenticate"] = (
            f'Bearer realm="hotswap", error="insufficient_scope", scope="{missing}"'
        )
    return answer


def require_closed(access: AccessControl | None, host: str) -> str:
    """What to say at start about access; raises Unavailable for an open server on `host`.

    Without any token everyone who reaches the server may do everything, so only this machine may.
    """
    loopback = _is_loopback(host)
    try:
        is_open = access is None or access.is_open()
    except Unavailable:
        if not loopback:
            raise
        return ""
    if not is_open:
        return ""
    if not loopback:
        raise Unavailable(
            f"no token was ever made, so everyone who reaches {host} could do everything; make "
            "one with `hotswap token create admin --scope admin` (with --registry STORE if no "
            "server runs), or listen on 127.0.0.1"
        )
    return "\nhotswap: open to every user of this machine: no token was ever made"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("the Authorization header is not of the form `Bearer TOKEN`")
    return token.strip()


def _ref_name(scope: Scope) -> str | None:
    """The adapter's name in the query's `ref`; text that is no reference covers nothing."""
    refs = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("ref")
    return None if refs is None else re.split("[@:]", refs[-1], maxsplit=1)[0]

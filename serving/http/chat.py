"""A chat completion over HTTP as a client sees it: the answer's text, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import httpx_sse

import hotswap.serving.errors  # noqa: F401 (a server's errors come back with their own classes)
from hotswap.registry.domain.errors import HotswapError, RegistryUnavailable


@contextmanager
def stream_answer(
    url: str, request: Mapping[str, Any], token: str | None
) -> Iterator[Iterator[str]]:
    """The answer to the body of a chat request; raises the server's error, or
    RegistryUnavailable when no server answers at `url`."""
    try:
        with httpx.stream(
            "POST",
            f"{url.rstrip('/')}/v1/chat/completions",
            json={**request, "stream": True},
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(10, read=None),
        ) as response:
            if response.status_code != 200:
                response.read()
                raise HotswapError.from_body(response.status_code, _body(response))
            yield _pieces(response)
    except httpx.TransportError as error:
        raise RegistryUnavailable(
            f"no server at {url} ({error}); start it with `hotswap up`, or give another --url"
        ) from error


def _pieces(response: httpx.Response) -> Iterator[str]:
    for event in httpx_sse.EventSource(response).iter_sse():
        if event.data == "[DONE]":
            return
        chunk = event.json()
        if "error" in chunk:
            raise HotswapError.from_body(response.status_code, chunk)
        for choice in chunk["choices"]:
            yield choice["delta"].get("content") or ""


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text

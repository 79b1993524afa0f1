"""Requests to one registry over HTTP: connections, time-outs, errors rebuilt from their bodies."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from hotswap.registry.domain.errors import HotswapError, RegistryUnavailable
from hotswap.registry.http.certificates import certificates

CONNECT_TIMEOUT_S = 5
TIMEOUT_S = 60
# Below the 5 s after which servers close idle connections: a request must not meet the close.
KEEPALIVE_EXPIRY_S = 2

ModelT = TypeVar("ModelT", bound=BaseModel)


class HttpTransport:
    """Every method raises the error the server named, or RegistryUnavailable. Thread-safe."""

    def __init__(
        self, url: str, transport: httpx.BaseTransport | None = None, *, token: str | None = None
    ) -> None:
        self.url = url.rstrip("/")
        with self._explained():
            self._http = httpx.Client(
                base_url=self.url,
                timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                limits=httpx.Limits(max_connections=100, keepalive_expiry=KEEPALIVE_EXPIRY_S),
                transport=transport,
                verify=certificates(),
                auth=None if token is None else Bearer(token),
            )

    def close(self) -> None:
        self._http.close()

    def head(self, path: str) -> int:
        """The status; the answer to HEAD has no body that could name a cause."""
        with self._explained():
            return self._http.head(path).status_code

    def get(
        self,
        path: str,
        params: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = TIMEOUT_S,
        auth: httpx.Auth | None = None,
    ) -> httpx.Response:
        """`auth` replaces our own token; a `timeout_s` of None waits as long as it takes."""
        with self._explained():
            response = self._http.get(
                path,
                params=params,
                timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
                auth=auth if auth is not None else httpx.USE_CLIENT_DEFAULT,
            )
        return self._check(response)

    def put(self, path: str, content: Iterable[bytes]) -> httpx.Response:
        with self._explained():
            response = self._http.put(path, content=content)
        return self._check(response)

    def delete(self, path: str) -> None:
        with self._explained():
            response = self._http.delete(path)
        self._check(response)

    def post(
        self,
        kind: type[ModelT],
        path: str,
        body: dict[str, Any],
        *,
        timeout_s: float | None = TIMEOUT_S,
    ) -> ModelT:
        with self._explained():
            response = self._http.post(
                path, json=body, timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
            )
        return self.read(kind, self._check(response))

    @contextmanager
    def stream(self, path: str, params: dict[str, Any] | None = None) -> Iterator[httpx.Response]:
        """A response whose body is read by the caller, piece by piece."""
        with self._explained(), self._http.stream("GET", path, params=params) as response:
            if response.is_error:
                response.read()
                self._check(response)
            yield response

    def read(self, kind: type[ModelT], response: httpx.Response) -> ModelT:
        with self.understood(response):
            return kind.model_validate_json(response.content)

    def get_list(
        self, kind: type[ModelT], path: str, field: str, params: dict[str, Any] | None = None
    ) -> list[ModelT]:
        """The items of the answer's `field`."""
        response = self.get(path, params)
        with self.understood(response):
            return [kind.model_validate(item) for item in response.json()[field]]

    def _check(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        try:
            body = response.json()
        except ValueError:
            body = response.text
        raise HotswapError.from_body(response.status_code, body)

    @contextmanager
    def understood(self, response: httpx.Response) -> Iterator[None]:
        try:
            yield
        except (ValidationError, ValueError, KeyError, TypeError):
            raise RegistryUnavailable(
                f"{self.url} answered {response.url.path} with something else than a registry "
                "does; is it the URL of a hotswap registry?"
            ) from None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.RemoteProtocolError as error:
            raise RegistryUnavailable(
                f"the registry at {self.url} broke off its answer ({error}); its log has the cause"
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise RegistryUnavailable(
                f"cannot reach the registry at {self.url}: {error}; start it with `hotswap up`, "
                "or name another with --registry or HOTSWAP_REGISTRY_URL"
            ) from error


def lines_of(response: httpx.Response) -> Iterator[str]:
    """The lines of a body of JSON lines. httpx's own end at U+2028 too, which JSON may hold."""
    rest = ""
    for text in response.iter_text():
        *lines, rest = f"{rest}{text}".split("\n")
        yield from lines
    if rest:
        yield rest


class Bearer(httpx.Auth):
    """Sends the token with every request of its client."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._header
        yield request

"""What HTTP adds: one form of error, limits, health, and messages when nobody answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter

from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import BlobCorrupted, HotswapError, RegistryUnavailable
from hotswap.registry.domain.layout import blob_key
from hotswap.registry.http import app as app_module
from hotswap.registry.http.app import Plane, assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from tests.refusals import refused
from tests.registry.conftest import OpenRegistry
from tests.servers import free_ports, serving_app


@pytest.fixture
def url(open_registry: OpenRegistry) -> Iterator[str]:
    with serving_app(assemble([registry_plane(open_registry())])) as address:
        yield address


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as client:
        yield client


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "fields"}
    return response.status_code, error["code"], error["message"]


def test_unknown_route_has_the_form_of_every_error(http: httpx.Client) -> None:
    assert error_of(http.get("/nope"))[:2] == (404, "not_found")


def test_wrong_method_has_the_form_of_every_error(http: httpx.Client) -> None:
    assert error_of(http.delete("/v1/adapters"))[:2] == (405, "invalid_request")


def test_invalid_body_names_the_field(http: httpx.Client) -> None:
    response = http.post("/v1/adapters/a/aliases/prod", json={"by": "ann", "to": "x"})
    status, code, message = error_of(response)
    assert (status, code) == (400, "invalid_request")
    assert message.startswith("body.to: ")


def test_unknown_field_in_a_body_is_refused(http: httpx.Client) -> None:
    body = {"by": "ann", "to": 1, "force": True}
    assert "body.force" in error_of(http.post("/v1/adapters/a/aliases/prod", json=body))[2]


def test_invalid_digest_is_a_client_error(http: httpx.Client) -> None:
    assert error_of(http.get("/v1/blobs/sha256:12"))[:2] == (400, "invalid_digest")


def test_body_that_is_too_large_is_refused(http: httpx.Client) -> None:
    response = http.post("/v1/adapters/a/versions", content=b"x" * (app_module.MAX_BODY_BYTES + 1))
    assert error_of(response)[:2] == (413, "request_too_large")


def test_body_of_unknown_length_that_is_too_large_is_refused(http: httpx.Client) -> None:
    chunks = (b"x" * 65536 for _ in range(40))
    response = http.post("/v1/adapters/a/versions", content=chunks)
    assert error_of(response)[:2] == (413, "request_too_large")


def test_health_says_what_the_store_was_measured_to_do(http: httpx.Client) -> None:
    facts = http.get("/health").json()["registry"]
    assert facts == {"store": {"create_once_multipart": True, "enforces_checksums": True}}


def test_bug_is_an_internal_error_without_details() -> None:
    router = APIRouter()

    @router.get("/bug")
    def bug() -> None:
        raise RuntimeError("secret")

    app = assemble([Plane("faulty", router)])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    response = _get(transport, "/bug")
    assert error_of(response)[:2] == (500, "internal_error")
    assert "secret" not in response.text


def _get(transport: httpx.ASGITransport, path: str) -> httpx.Response:
    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            return await client.get(path)

    return asyncio.run(get())


def test_lifespans_are_entered_in_order_and_left_in_reverse() -> None:
    events: list[str] = []

    def plane(name: str) -> Plane:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            events.append(f"enter {name}")
            yield
            events.append(f"leave {name}")

        return Plane(name, APIRouter(), lifespan, lambda: {"facts": name} if name == "b" else {})

    with serving_app(assemble([plane("a"), plane("b")])) as url:
        health = httpx.get(f"{url}/health").json()
    assert health == {"status": "ok", "planes": ["a", "b"], "b": {"facts": "b"}}
    assert events == ["enter a", "enter b", "leave b", "leave a"]


def test_small_corrupted_blob_is_reported_to_the_client(url: str, tmp_path: Path) -> None:
    data = b"small"
    descriptor = Descriptor(
        digest=Digest.of(data), size_bytes=len(data), media_type="x", file_name="x"
    )
    with RegistryClient(url) as client:
        client.blobs.put(descriptor, [data])
        (tmp_path / "store" / blob_key(descriptor.digest)).write_bytes(b"other")
        with refused(BlobCorrupted, descriptor.digest.hex):
            b"".join(client.blobs.open(descriptor.digest))


def test_large_corrupted_blob_never_arrives_complete(url: str, tmp_path: Path) -> None:
    data = bytes(5 << 20)
    descriptor = Descriptor(
        digest=Digest.of(data), size_bytes=len(data), media_type="x", file_name="x"
    )
    received: list[bytes] = []
    with RegistryClient(url) as client:
        client.blobs.put(descriptor, [data])
        (tmp_path / "store" / blob_key(descriptor.digest)).write_bytes(data[:-1] + b"x")
        with pytest.raises(HotswapError):
            received.extend(client.blobs.open(descriptor.digest))
    assert sum(map(len, received)) < len(data)


def test_server_that_is_not_there_is_named_with_what_to_do() -> None:
    port = free_ports(1)[0]
    with RegistryClient(f"http://127.0.0.1:{port}") as client:
        with refused(RegistryUnavailable, port, "hotswap up"):
            client.adapters.all()


def test_server_that_is_no_registry_is_named() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>"))
    with RegistryClient("http://elsewhere", transport) as client:
        with refused(RegistryUnavailable, "http://elsewhere"):
            client.adapters.versions("team/sql")


def test_url_that_is_no_url_is_named() -> None:
    with refused(RegistryUnavailable, "http://:x"):
        RegistryClient("http://:x")


def test_answers_are_sent_at_once_not_when_the_last_one_is_acknowledged() -> None:
    with app_module.listen("127.0.0.1", 0) as listening:
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

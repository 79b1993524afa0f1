"""Webhooks against a real receiver: signed, in order, repeated until accepted, none lost."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from standardwebhooks import Webhook as StandardWebhook

from hotswap.registry.domain.errors import BlobCorrupted, Forbidden, InvalidSettings
from hotswap.registry.domain.event import Event
from hotswap.registry.domain.layout import WEBHOOKS, webhook_key
from hotswap.registry.events.delivery import MAX_RETRY_S, pause_s
from hotswap.registry.events.webhooks import WebhookSettings
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.settings import read_toml
from hotswap.registry.storage.local import LocalStore
from tests.contracts.pushes import NAME, push_version
from tests.refusals import refused
from tests.registry.conftest import OpenRegistry
from tests.servers import serving_app

TIMEOUT_S = 30
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """Notes what arrives; answers with the next of `statuses`, then with 204."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(receiver.take(headers, body))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def take(self, headers: dict[str, str], body: bytes) -> int:
        with self._changed:
            self.requests.append((headers, body))
            self._changed.notify_all()
            return self.statuses.pop(0) if self.statuses else 204

    def wait_for(self, num_requests: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= num_requests, TIMEOUT_S)

    def events(self) -> list[Event]:
        return [Event.model_validate_json(body) for _, body in self.requests]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def registry(open_registry: OpenRegistry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr("hotswap.registry.events.delivery.FIRST_RETRY_S", 0.01)
    return open_registry()


def settings(url: str, **changes: object) -> WebhookSettings:
    webhook = {"name": "ci", "url": url, "secret": SECRET, **changes}
    return WebhookSettings.model_validate({"webhooks": [webhook]})


@contextmanager
def delivering(registry: Registry, wanted: WebhookSettings) -> Iterator[None]:
    delivery = registry.delivery(wanted)
    delivery.start()
    try:
        yield
    finally:
        delivery.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    """For what is written a moment after the receiver has answered."""
    tick = threading.Event()
    for _ in range(TIMEOUT_S * 100):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it did not come true")


def test_events_arrive_in_order_with_a_signature_that_the_secret_verifies(
    registry: Registry, receiver: Receiver, tmp_path: Path
) -> None:
    with delivering(registry, settings(receiver.url)):
        push_version(registry, tmp_path, 1, alias="prod")
        receiver.wait_for(2)
    assert receiver.events() == list(registry.events.read(0).events)
    for (headers, body), event in zip(receiver.requests, receiver.events(), strict=True):
        assert headers["webhook-id"] == str(event.sequence)
        StandardWebhook(SECRET).verify(body, headers)
        assert abs(int(headers["webhook-timestamp"]) - event.at.timestamp()) < TIMEOUT_S


def test_what_is_refused_is_repeated_before_what_comes_behind_it(
    registry: Registry, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.statuses = [500, 302]
    with delivering(registry, settings(receiver.url)):
        push_version(registry, tmp_path, 1, alias="prod")
        receiver.wait_for(4)
        wait_until(lambda: registry.events.webhooks()[0].cursor == 2)
    assert [event.sequence for event in receiver.events()] == [1, 1, 1, 2]
    (state,) = registry.events.webhooks()
    assert [(a.event, a.number, a.status) for a in state.attempts] == [
        (1, 1, 500),
        (1, 2, 302),
        (1, 3, 204),
        (2, 1, 204),
    ]


def test_pauses_double_up_to_a_limit() -> None:
    assert [pause_s(1, number) for number in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert pause_s(1, 1000) == MAX_RETRY_S


def test_what_happens_while_nobody_answers_or_delivers_comes_after_the_restart(
    registry: Registry, receiver: Receiver, tmp_path: Path
) -> None:
    dead = settings("http://127.0.0.1:1/hook")
    with delivering(registry, dead):
        push_version(registry, tmp_path, 1)
        wait_until(lambda: registry.events.webhooks()[0].attempts != ())
    (state,) = registry.events.webhooks()
    assert (state.cursor, state.attempts[0].status) == (0, None)
    assert "ConnectError" in state.attempts[0].error
    push_version(registry, tmp_path, 2)
    with delivering(registry, settings(receiver.url)):
        receiver.wait_for(2)
    assert [event.sequence for event in receiver.events()] == [1, 2]


def test_nothing_is_repeated_after_a_restart_in_peace(
    registry: Registry, receiver: Receiver, tmp_path: Path
) -> None:
    with delivering(registry, settings(receiver.url)):
        push_version(registry, tmp_path, 1)
        receiver.wait_for(1)
        wait_until(lambda: registry.events.webhooks()[0].cursor == 1)
    with delivering(registry, settings(receiver.url)):
        push_version(registry, tmp_path, 2)
        receiver.wait_for(2)
    assert [event.sequence for event in receiver.events()] == [1, 2]


def test_new_webhook_begins_at_the_end_of_the_log(
    registry: Registry, receiver: Receiver, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1)
    with delivering(registry, settings(receiver.url)):
        push_version(registry, tmp_path, 2)
        receiver.wait_for(1)
    assert [event.sequence for event in receiver.events()] == [2]


def test_only_what_matches_is_sent(registry: Registry, receiver: Receiver, tmp_path: Path) -> None:
    with delivering(registry, settings(receiver.url, match="team/*@prod", kinds=["move"])):
        push_version(registry, tmp_path, 1, name="other", alias="prod")
        push_version(registry, tmp_path, 2, alias="canary")
        push_version(registry, tmp_path, 3, alias="prod")
        receiver.wait_for(1)
        wait_until(lambda: registry.events.webhooks()[0].cursor == 6)
    (event,) = receiver.events()
    assert event.move is not None
    assert (event.move.name, event.move.alias, event.move.to_number) == (NAME, "prod", 2)


def test_stop_waits_for_no_receiver(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotswap.registry.events.delivery.FIRST_RETRY_S", 300)
    delivery = registry.delivery(settings("http://127.0.0.1:1/hook"))
    delivery.start()
    push_version(registry, tmp_path, 1)
    wait_until(lambda: registry.events.webhooks()[0].attempts != ())
    delivery.stop()
    assert not delivery.is_running


def test_damaged_cursor_is_named_at_start(registry: Registry, tmp_path: Path) -> None:
    LocalStore(tmp_path / "store").create(webhook_key("ci"), b"{")
    with refused(BlobCorrupted, "webhooks/ci.json"):
        with delivering(registry, settings("http://127.0.0.1:1/hook")):
            raise AssertionError("it started")


def test_server_of_the_registry_delivers_and_shows_it_to_admins_only(
    registry: Registry, receiver: Receiver, tmp_path: Path
) -> None:
    delivery = registry.delivery(settings(receiver.url))
    app = assemble([registry_plane(registry, delivery)], registry.access)
    made = {
        scope: registry.access.create(scope.partition(":")[0], [scope], by="tests").token
        for scope in ("admin", "pull:*")
    }
    with serving_app(app) as url:
        push_version(registry, tmp_path, 1)
        receiver.wait_for(1)
        with RegistryClient(url, token=made["admin"]) as client:
            wait_until(lambda: client.events.webhooks()[0].cursor == 1)
            assert client.events.webhooks() == registry.events.webhooks()
        with RegistryClient(url, token=made["pull:*"]) as client, pytest.raises(Forbidden):
            client.events.webhooks()
    stored = LocalStore(tmp_path / "store")
    assert all(SECRET.encode() not in b"".join(stored.open(k)) for k in stored.list(WEBHOOKS))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "CI"', "name"),
        ('url = "ftp://x"', "url"),
        ('secret = "password"', "24 to 64 bytes"),
        ('match = "Team SQL"', "not a pattern"),
        ('kinds = ["push"]', "kinds"),
        ('urls = "x"', "urls"),
    ],
)
def test_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    fields = {"name": '"ci"', "url": '"http://ci.example/hook"', "secret": f'"{SECRET}"'}
    key, _, value = text.partition(" = ")
    lines = [f"{name} = {each}" for name, each in {**fields, key: value}.items()]
    path = tmp_path / "webhooks.toml"
    path.write_text("\n".join(["[[webhooks]]", *lines]))
    with refused(InvalidSettings, words) as caught:
        read_toml(path, WebhookSettings)
    assert SECRET not in str(caught.value)


def test_two_webhooks_of_one_name_are_refused(tmp_path: Path) -> None:
    part = f'[[webhooks]]\nname = "ci"\nurl = "http://ci.example"\nsecret = "{SECRET}"\n'
    path = tmp_path / "webhooks.toml"
    path.write_text(part * 2)
    with refused(InvalidSettings, path):
        read_toml(path, WebhookSettings)

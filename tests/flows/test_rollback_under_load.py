"""A release, and its rollback, while requests run: over HTTP, on one server that never restarts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from hotswap.registry.domain.requests import MoveRequest
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.serving.http.app import Serving
from tests.servers import serving_app
from tests.serving.conftest import push_adapter

NAME = "team/orders"
NUM_CLIENTS = 6
PROMPTS = [f"order {word} pizza" for word in ("one", "two", "three", "four", "five")]
TIMEOUT_S = 60


@dataclass
class Load:
    """Clients that ask `NAME@prod` until told to stop, noting which version each answer names."""

    url: str
    answers: list[tuple[str, str, str]] = field(default_factory=list)  # version, prompt, text
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self, first: int) -> None:
        with httpx.Client(base_url=self.url, timeout=TIMEOUT_S) as client:
            turn = first
            while not self.stop.is_set():
                prompt = PROMPTS[turn % len(PROMPTS)]
                turn += 1
                response = ask(client, f"{NAME}@prod", prompt)
                with self.changed:
                    if response.status_code == 200:
                        body = response.json()
                        text = body["choices"][0]["message"]["content"]
                        self.answers.append((body["hotswap"]["version"], prompt, text))
                    else:
                        self.failures.append(response.text)
                    self.changed.notify_all()

    def wait_for(self, version: str, count: int) -> None:
        """Until `count` more answers name `version`."""
        with self.changed:
            start = self._count(version)
            assert self.changed.wait_for(
                lambda: self.failures or self._count(version) >= start + count, TIMEOUT_S
            )

    def _count(self, version: str) -> int:
        return sum(1 for found, _, _ in self.answers if found == version)


def ask(client: httpx.Client, model: str, prompt: str) -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 10,
    }
    return client.post("/v1/chat/completions", json=body)


@pytest.fixture
def url(serving: Serving, registry: Registry, adapter_dirs: list[Path]) -> Iterator[str]:
    push_adapter(registry, NAME, adapter_dirs[0], alias="prod")
    push_adapter(registry, NAME, adapter_dirs[1], alias=None)
    with serving_app(assemble([registry_plane(registry), serving.plane()])) as found:
        yield found


@pytest.fixture
def load(url: str) -> Load:
    """The load of a release and a rollback, run to its end."""
    load = Load(url)
    with ThreadPoolExecutor(NUM_CLIENTS) as pool, RegistryClient(url) as operator:
        running = [pool.submit(load.run, number) for number in range(NUM_CLIENTS)]
        try:
            load.wait_for(f"{NAME}:1", 20)
            operator.aliases.move(MoveRequest(NAME, "prod", 2, by="tests", why="release"))
            load.wait_for(f"{NAME}:2", 20)
            operator.aliases.rollback(MoveRequest(NAME, "prod", by="tests", why="bad release"))
            load.wait_for(f"{NAME}:1", 20)
        finally:
            load.stop.set()
        for future in running:
            future.result()
    return load


def test_no_request_fails(load: Load) -> None:
    assert load.failures == []


def test_the_answers_show_the_release_and_the_rollback_in_order(load: Load) -> None:
    versions = [version for version, _, _ in load.answers]
    assert Counter(versions).keys() == {f"{NAME}:1", f"{NAME}:2"}
    first_of_2 = versions.index(f"{NAME}:2")
    last_of_2 = len(versions) - 1 - versions[::-1].index(f"{NAME}:2")
    # Requests that had started finish on their version, so a few may cross each border.
    assert set(versions[first_of_2 + NUM_CLIENTS : last_of_2 - NUM_CLIENTS]) == {f"{NAME}:2"}
    assert set(versions[:first_of_2]) == {f"{NAME}:1"}
    assert set(versions[last_of_2 + 1 :]) == {f"{NAME}:1"}


def test_every_answer_is_what_the_version_it_names_gives_alone(load: Load, url: str) -> None:
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        for version, prompt in {(version, prompt) for version, prompt, _ in load.answers}:
            alone = ask(client, version, prompt).json()["choices"][0]["message"]["content"]
            texts = {t for v, p, t in load.answers if (v, p) == (version, prompt)}
            assert texts == {alone}


def test_the_history_shows_every_move_with_its_reason(load: Load, registry: Registry) -> None:
    moves = registry.aliases.history(NAME, "prod")
    assert [(m.from_number, m.to_number, m.why) for m in moves] == [
        (None, 1, ""),
        (1, 2, "release"),
        (2, 1, "bad release"),
    ]

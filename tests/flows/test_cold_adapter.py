"""An adapter that must be fetched first does not stop what is running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotswap.registry.domain.digests import Digest
from hotswap.registry.registry import Registry
from hotswap.serving.http.app import Serving
from tests.serving.conftest import push_adapter
from tests.serving.test_engine import Inbox

TIMEOUT_S = 30


def test_running_requests_go_on_while_an_adapter_is_fetched(
    serving: Serving,
    registry: Registry,
    adapter_dirs: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digest: Digest = push_adapter(registry, "team/cold", adapter_dirs[0]).manifest_digest
    may_arrive = threading.Event()
    open_blob = registry.blobs.open

    def open_when_allowed(digest: Digest) -> Iterator[bytes]:
        assert may_arrive.wait(TIMEOUT_S)
        return open_blob(digest)

    monkeypatch.setattr(registry.blobs, "open", open_when_allowed)
    serving.start()
    try:
        running, cold = Inbox(max_tokens=300), Inbox(digest, max_tokens=5)
        serving.engine.submit(running.sequence)
        running.next()
        serving.engine.submit(cold.sequence)
        for _ in range(50):  # the stream flows although a fetch is under way
            assert running.next().token_id is not None
        assert cold.sequence.output_ids == []
        may_arrive.set()
        cold.last()
        assert len(cold.sequence.output_ids) == 5
        assert not running.sequence.is_finished or len(running.sequence.output_ids) == 300
    finally:
        may_arrive.set()
        serving.stop()

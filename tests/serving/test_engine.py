"""The engine on its own thread, with the real runner on the tiny base and a real registry."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import BlobNotFound, ServerBusy
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home
from hotswap.serving.adapters.lora import LoraWeights
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.engine import Engine
from hotswap.serving.engine.pages import PAGE
from hotswap.serving.engine.sequence import Delta, FinishReason, SamplingParams, Sequence
from hotswap.serving.errors import NotServable
from hotswap.serving.execution.runner import ModelRunner, PreparedAdapter
from hotswap.serving.http.app import Serving
from hotswap.serving.settings import Kernels, Quantization
from tests.refusals import refused
from tests.serving.conftest import MakeRunner, load_adapter, push_adapter, serving_settings
from tests.serving.sequences import LIMITS, make_sequence, run_to_end

TIMEOUT_S = 30


class Inbox:
    """Collects one sequence's deltas and waits for the last."""

    def __init__(self, adapter: Digest | None = None, prompt: tuple[int, ...] = (5, 6), **sampling):
        self._queue: queue.Queue[Delta] = queue.Queue()
        params = SamplingParams(**{"temperature": 0, "max_tokens": 6, **sampling})
        adapters = () if adapter is None else ((adapter, 1.0),)
        self.sequence = Sequence(list(prompt), adapters, params, self._queue.put)

    def next(self) -> Delta:
        return self._queue.get(timeout=TIMEOUT_S)

    def last(self) -> Delta:
        while not (delta := self.next()).is_last:
            continue
        return delta


@pytest.fixture
def running(serving: Serving) -> Iterator[Serving]:
    serving.start()
    yield serving
    serving.stop()


def test_requests_for_different_adapters_and_the_base_get_what_each_gets_alone(
    running: Serving, registry: Registry, adapter_dirs: list[Path], make_runner: MakeRunner
) -> None:
    digests = [
        push_adapter(registry, f"team/a{i}", path).manifest_digest
        for i, path in enumerate(adapter_dirs)
    ]
    inboxes = [Inbox(None, max_tokens=20)] + [Inbox(d, max_tokens=20) for d in digests]
    for inbox in inboxes:
        running.engine.submit(inbox.sequence)
    assert [inbox.last().finish_reason for inbox in inboxes] == [FinishReason.LENGTH] * 7
    runner = make_runner(Kernels.NATIVE, Quantization.INT8)
    for slot, inbox in enumerate(inboxes):
        alone = make_sequence([5, 6], slot=slot, max_tokens=20)
        run_to_end(runner, [alone])
        assert inbox.sequence.output_ids == alone.output_ids


def test_evicting_and_reloading_an_adapter_does_not_change_its_answer(
    running: Serving, registry: Registry, adapter_dirs: list[Path]
) -> None:
    digests = [
        push_adapter(registry, f"team/a{i}", path).manifest_digest
        for i, path in enumerate(adapter_dirs[:4])
    ]
    answers: dict[Digest, list[list[int]]] = {digest: [] for digest in digests}
    for _ in range(3):  # two slots for four adapters: each round evicts every adapter
        for digest in digests:
            inbox = Inbox(digest)
            running.engine.submit(inbox.sequence)
            inbox.last()
            answers[digest].append(inbox.sequence.output_ids)
    assert all(first == second == third for first, second, third in answers.values())


def test_a_request_joins_and_leaves_while_another_runs(running: Serving) -> None:
    long, short = Inbox(max_tokens=400), Inbox(max_tokens=3)
    running.engine.submit(long.sequence)
    long.next()
    running.engine.submit(short.sequence)
    short.last()
    assert not long.sequence.is_finished
    running.engine.abort(long.sequence)
    assert long.last().finish_reason is FinishReason.ABORT


def test_an_adapter_that_cannot_be_fetched_ends_its_request_and_no_other(running: Serving) -> None:
    missing = Inbox(Digest.of(b"no such manifest"))
    fine = Inbox()
    running.engine.submit(missing.sequence)
    running.engine.submit(fine.sequence)
    assert isinstance(missing.last().error, BlobNotFound)
    assert fine.last().finish_reason is FinishReason.LENGTH


class _Given:
    """An adapter source that has one adapter for every digest, or none yet; notes who expects."""

    def __init__(self, adapter: LoraWeights | PreparedAdapter | None) -> None:
        is_bare = isinstance(adapter, LoraWeights)
        self._prepared = PreparedAdapter(adapter, ()) if is_bare else adapter
        self.is_asked = threading.Event()
        self.expecting: set[int] = set()
        self.num_expected: Counter[int] = Counter()

    def get(self, _: Digest) -> PreparedAdapter | None:
        self.is_asked.set()
        return self._prepared

    def expect(self, request: int, _: Iterable[Digest]) -> None:
        assert request not in self.expecting
        self.expecting.add(request)
        self.num_expected[request] += 1

    def release(self, request: int) -> None:
        self.expecting.discard(request)


def test_an_adapter_that_does_not_fit_the_base_ends_its_request_and_frees_its_slot(
    make_runner: MakeRunner,
) -> None:
    import torch

    wide = LoraWeights(
        {"model.layers.0.self_attn.q_proj": (torch.zeros(4, 999), torch.zeros(64, 4))}
    )
    engine = Engine(make_runner(), _Given(wide), LIMITS, max_loras=1)
    engine.start()
    try:
        for name in (b"first", b"second"):
            inbox = Inbox(Digest.of(name))
            engine.submit(inbox.sequence)
            assert isinstance(inbox.last().error, NotServable)
        assert engine.health()["loaded_adapters"] == []
    finally:
        engine.stop()


def test_stopping_ends_every_request(running: Serving) -> None:
    inboxes = [Inbox(max_tokens=500) for _ in range(3)]
    for inbox in inboxes:
        running.engine.submit(inbox.sequence)
    inboxes[0].next()
    running.engine.stop()
    assert [inbox.last().finish_reason for inbox in inboxes] == [FinishReason.ABORT] * 3
    with refused(ServerBusy, "stopping"):
        running.engine.submit(Inbox().sequence)


def test_too_many_waiting_requests_are_refused(make_runner: MakeRunner) -> None:
    engine = Engine(make_runner(), _Given(LoraWeights({})), LIMITS, max_loras=1, max_num_waiting=2)
    for _ in range(2):
        engine.submit(Inbox().sequence)
    with refused(ServerBusy, 2):
        engine.submit(Inbox().sequence)


def test_the_end_token_ends_an_answer_and_is_not_part_of_it(running: Serving) -> None:
    free = Inbox(max_tokens=6)
    running.engine.submit(free.sequence)
    free.last()
    end = free.sequence.output_ids[3]
    ended = Inbox(max_tokens=6, stop_token_ids=frozenset({end}))
    running.engine.submit(ended.sequence)
    assert ended.last() == Delta(finish_reason=FinishReason.STOP)
    assert (
        ended.sequence.output_ids == free.sequence.output_ids[: free.sequence.output_ids.index(end)]
    )


def test_a_request_expects_its_adapter_until_it_has_a_slot(
    make_runner: MakeRunner, adapter_dirs: list[Path]
) -> None:
    runner = make_runner()
    given = _Given(runner.prepare(load_adapter(adapter_dirs[0])))
    engine = Engine(runner, given, LIMITS, max_loras=1)
    inbox = Inbox(Digest.of(b"a"), max_tokens=400)
    engine.submit(inbox.sequence)
    assert given.expecting == {inbox.sequence.id}
    engine.start()
    try:
        inbox.next()
        assert given.expecting == set()
        assert not inbox.sequence.is_finished
    finally:
        engine.stop()


def test_a_request_that_is_aborted_while_it_waits_expects_nothing_any_more(
    make_runner: MakeRunner,
) -> None:
    given = _Given(None)
    engine = Engine(make_runner(), given, LIMITS, max_loras=1)
    engine.start()
    try:
        aborted, left = Inbox(Digest.of(b"a")), Inbox(Digest.of(b"a"))
        for inbox in (aborted, left):
            engine.submit(inbox.sequence)
        assert given.is_asked.wait(TIMEOUT_S)
        engine.abort(aborted.sequence)
        assert aborted.last().finish_reason is FinishReason.ABORT
        assert given.expecting == {left.sequence.id}
    finally:
        engine.stop()
    assert given.expecting == set()


def test_a_request_that_was_refused_expects_nothing(make_runner: MakeRunner) -> None:
    given = _Given(None)
    engine = Engine(make_runner(), given, LIMITS, max_loras=1, max_num_waiting=1)
    waiting = Inbox()
    engine.submit(waiting.sequence)
    with pytest.raises(ServerBusy):
        engine.submit(Inbox(Digest.of(b"a")).sequence)
    assert given.expecting == {waiting.sequence.id}


def test_a_request_that_is_preempted_expects_its_adapter_again(
    make_runner: MakeRunner, adapter_dirs: list[Path]
) -> None:
    runner = make_runner()
    given = _Given(runner.prepare(load_adapter(adapter_dirs[0])))
    engine = Engine(runner, given, replace(LIMITS, num_pages=4), max_loras=1)
    old, young = (Inbox(Digest.of(b"a"), max_tokens=3 * PAGE) for _ in range(2))
    for inbox in (old, young):
        engine.submit(inbox.sequence)
    engine.start()
    try:
        for inbox in (old, young):
            assert inbox.last().finish_reason is FinishReason.LENGTH
    finally:
        engine.stop()
    assert young.sequence.num_preempted >= 1
    assert given.num_expected[young.sequence.id] == 1 + young.sequence.num_preempted
    assert given.num_expected[old.sequence.id] == 1
    assert given.expecting == set()


def test_requests_for_three_times_the_adapters_that_fit_fetch_each_once(
    tiny_base: BaseDirectory,
    registry: Registry,
    adapter_dirs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = serving_settings(tiny_base).model_copy(update={"max_cpu_loras": 2})
    prepared: list[int] = []
    prepare = ModelRunner.prepare

    def counted(runner: ModelRunner, adapter: LoraWeights) -> PreparedAdapter:
        prepared.append(1)
        return prepare(runner, adapter)

    monkeypatch.setattr(ModelRunner, "prepare", counted)
    serving = Serving(settings, registry, Home(tmp_path / "home"))
    inboxes = [  # two run for long while the others wait for one of the two slots
        Inbox(push_adapter(registry, f"team/a{i}", path).manifest_digest, max_tokens=100)
        for i, path in enumerate(adapter_dirs)
    ]
    for inbox in inboxes:
        serving.engine.submit(inbox.sequence)
    serving.start()
    try:
        assert [inbox.last().finish_reason for inbox in inboxes] == [FinishReason.LENGTH] * 6
    finally:
        serving.stop()
    assert len(prepared) == 6

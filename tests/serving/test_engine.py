"""The engine on its own thread, with the real runner on the tiny base and a real registry."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.digests import Digest
from registry.errors import BlobNotFound, NotServable, ServerBusy
from registry.registry import Registry
from serving.app import Serving
from serving.engine import Engine
from serving.lora import LoraWeights
from serving.runner import PreparedAdapter
from serving.sequence import Delta, FinishReason, SamplingParams, Sequence
from serving.settings import Kernels, Quantization
from tests.serving.conftest import MakeRunner, push_adapter
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
    """An adapter source that has one adapter for every digest."""

    def __init__(self, weights: LoraWeights) -> None:
        self._prepared = PreparedAdapter(weights, ())

    def get(self, _: Digest) -> PreparedAdapter:
        return self._prepared


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
    with pytest.raises(ServerBusy, match="stopping"):
        running.engine.submit(Inbox().sequence)


def test_too_many_waiting_requests_are_refused(make_runner: MakeRunner) -> None:
    engine = Engine(make_runner(), _Given(LoraWeights({})), LIMITS, max_loras=1, max_num_waiting=2)
    for _ in range(2):
        engine.submit(Inbox().sequence)
    with pytest.raises(ServerBusy, match="2 requests are waiting"):
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

"""One adapter's flood does not starve another. Counted in steps, so no clock can blur it."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from hotswap.registry.domain.digests import Digest
from hotswap.registry.registry import Registry
from hotswap.serving.engine.fairness import MAX_REMEMBERED, VirtualCounters
from hotswap.serving.engine.scheduler import Limits
from hotswap.serving.engine.sequence import Delta, SamplingParams, Sequence
from hotswap.serving.http.app import Serving
from tests.serving.conftest import push_adapter
from tests.serving.sequences import make_sequence
from tests.serving.steps import Server

LIMITS = Limits(
    max_num_seqs=16,
    max_num_batched_tokens=128,
    prefill_chunk=64,
    num_pages=256,
    is_cut_invariant=True,
    enable_prefix_caching=True,
)
FLOOD, LIGHT = 1, 2
FAIR = 1.5


def prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(1000) for _ in range(length)]


def steps_of_light(num_tokens: int, flood: list[Sequence], num_steps_before: int) -> int:
    """In how many steps a light request is answered that arrives in the midst of a flood."""
    server = Server(LIMITS)
    for sequence in flood:
        server.scheduler.add(sequence)
    for _ in range(num_steps_before):
        server.step()
    light = make_sequence(prompt(random.Random(0), num_tokens), slot=LIGHT, max_tokens=40)
    server.run(light)
    steps = server.finished_at[light.id] - num_steps_before
    if flood:
        assert len(server.finished_at) < len(flood), "the flood was over before"
    return steps


@pytest.mark.parametrize("num_steps_before", [0, 1, 7, 30])
@pytest.mark.parametrize(
    ("num_prompt", "max_tokens"),
    [(20, 60), (400, 4), (200, 200)],
    ids=["decodes", "prompts", "memory"],
)
def test_a_light_adapter_beside_a_flood_of_200_gets_its_answer_as_on_an_idle_server(
    num_prompt: int, max_tokens: int, num_steps_before: int
) -> None:
    """A flood that has all the seats, one that has the whole budget of every step, and one that
    has all the memory."""
    rng = random.Random(1)
    flood = [
        make_sequence(prompt(rng, num_prompt), slot=FLOOD, max_tokens=max_tokens)
        for _ in range(200)
    ]
    idle = steps_of_light(100, [], 0)
    assert steps_of_light(100, flood, num_steps_before) <= FAIR * idle


def test_a_flood_pays_for_one_light_request_with_one_preemption_at_most() -> None:
    rng = random.Random(2)
    server = Server(LIMITS)
    for _ in range(100):
        server.scheduler.add(make_sequence(prompt(rng, 20), slot=FLOOD, max_tokens=60))
    for _ in range(10):
        server.step()
    for number in range(5):
        server.run(make_sequence(prompt(rng, 20), slot=LIGHT, max_tokens=3))
        assert server.scheduler.num_preemptions <= number + 1


def test_two_floods_share_the_server_evenly() -> None:
    rng = random.Random(3)
    server = Server(LIMITS)
    for slot, max_tokens in ((1, 50), (2, 10)):
        for _ in range(300):
            server.scheduler.add(make_sequence(prompt(rng, 20), slot=slot, max_tokens=max_tokens))
    served = {1: 0, 2: 0}
    for _ in range(400):
        for work in server.step().works:
            ((slot, _),) = work.sequence.slots
            served[slot] += work.length * (2 if work.is_decode else 1)
    assert 0.8 < served[1] / served[2] < 1.25


def test_an_account_that_slept_has_not_saved_up_service() -> None:
    counters = VirtualCounters()
    for account in ("busy", "sleeps"):
        counters.enter(account)
    counters.leave("sleeps")
    counters.charge("busy", 500)
    counters.enter("sleeps")
    assert counters.served("sleeps") == counters.served("busy") == 500


def test_an_account_does_not_get_rid_of_its_debt_by_leaving() -> None:
    counters = VirtualCounters()
    for account in ("light", "heavy"):
        counters.enter(account)
    counters.charge("heavy", 500)
    counters.leave("heavy")
    counters.enter("heavy")
    assert counters.served("heavy") == 500
    assert counters.served("light") == 0


def test_counters_of_accounts_that_are_gone_are_bounded() -> None:
    counters = VirtualCounters()
    for account in range(3 * MAX_REMEMBERED):
        counters.enter(account)
        counters.leave(account)
    assert counters.num_active == 0
    assert counters.num_remembered == MAX_REMEMBERED


def test_on_the_real_engine_a_flood_does_not_hold_up_another_adapter(
    serving: Serving, registry: Registry, adapter_dirs: list[Path]
) -> None:
    heavy, light = (
        push_adapter(registry, f"team/a{i}", path).manifest_digest
        for i, path in enumerate(adapter_dirs[:2])
    )
    engine = serving.engine
    rng = random.Random(4)
    vocab_size = serving.base.tokenizer.get_vocab_size()

    def ask(adapter: Digest, max_tokens: int) -> tuple[list[tuple[int, Delta]], threading.Event]:
        """What the request is told, each with the number of the step, and when it has ended."""
        told: list[tuple[int, Delta]] = []
        is_done = threading.Event()

        def receive(delta: Delta) -> None:
            told.append((engine.num_steps, delta))
            if delta.is_last:
                is_done.set()

        sampling = SamplingParams(temperature=0, max_tokens=max_tokens)
        token_ids = [rng.randrange(3, vocab_size) for _ in range(20)]
        engine.submit(Sequence(token_ids, ((adapter, 1.0),), sampling, receive))
        return told, is_done

    def steps_of_one(adapter: Digest) -> int:
        told, is_done = ask(adapter, 30)
        before = engine.num_steps
        assert is_done.wait(60)
        assert [delta.error for _, delta in told] == [None] * 30
        return told[-1][0] - before

    serving.start()
    try:
        for adapter in (heavy, light):
            steps_of_one(adapter)  # it is in memory from now on
        idle = steps_of_one(light)
        flood = [ask(heavy, 300) for _ in range(200)]
        for _ in range(3):
            assert steps_of_one(light) <= FAIR * idle
        assert engine.health()["waiting"] > 150
        assert flood[0][0], "the flood is not served at all"
    finally:
        serving.stop()
    assert not any(delta.error for told, _ in flood for _, delta in told)

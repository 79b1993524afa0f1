"""Sequences for tests, and the plain loop that runs one or several of them to the end."""

from __future__ import annotations

import random
from typing import Any

from hotswap.registry.domain.digests import Digest
from hotswap.serving.engine.pages import PagePool, num_pages_of
from hotswap.serving.engine.scheduler import Admission, Limits, Scheduler
from hotswap.serving.engine.sequence import Delta, SamplingParams, Sequence
from hotswap.serving.execution.runner import ModelRunner

LIMITS = Limits(max_num_seqs=8, max_num_batched_tokens=40, prefill_chunk=16, num_pages=256)


def make_sequence(
    prompt_ids: list[int],
    *,
    slot: int = 0,
    scale: float = 1.0,
    stacked: tuple[tuple[int, float], ...] = (),
    deltas: list[Delta] | None = None,
    **sampling: Any,
) -> Sequence:
    """For the base, or for an adapter that has the slot; `stacked` are the slots and scales of
    more adapters."""
    slots = ((slot, scale), *stacked) if slot else ()
    adapters = tuple((Digest.of(f"slot {each}".encode()), factor) for each, factor in slots)
    params = SamplingParams(**{"temperature": 0, "max_tokens": 8, **sampling})
    deliver = [].append if deltas is None else deltas.append
    return Sequence(prompt_ids, adapters, params, deliver, slots=slots)


def place(sequences: list[Sequence]) -> None:
    """Give sequences that no scheduler sees pages of their own."""
    pool = PagePool(LIMITS.num_pages)
    for sequence in sequences:
        pages = pool.take(num_pages_of(sequence.max_num_tokens))
        assert pages is not None
        sequence.pages = pages


def random_prompt(rng: random.Random, vocab_size: int, max_length: int = 60) -> list[int]:
    return [rng.randrange(3, vocab_size) for _ in range(rng.randint(1, max_length))]


def run_to_end(runner: ModelRunner, sequences: list[Sequence], limits: Limits = LIMITS) -> None:
    """Schedule and execute until every sequence has its max_tokens."""
    scheduler = Scheduler(limits)
    for sequence in sequences:
        scheduler.add(sequence)
    while batch := scheduler.schedule(lambda _: Admission.ADMITTED):
        for work, tokens in zip(batch.works, runner.execute(batch), strict=True):
            for delta in work.advance(tokens):
                work.sequence.deliver(delta)
                if delta.is_last:
                    scheduler.remove(work.sequence)
                    runner.release(work.sequence)

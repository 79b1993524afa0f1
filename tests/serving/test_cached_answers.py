"""The promise again, where it is hardest to keep: on native kernels an answer's tokens and logits
are those of a solo run on a fresh server, bit for bit, with so few pages that sequences are
preempted and kept pages evicted, and with beginnings of prompts found in the cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.scheduler import Admission, Limits, Scheduler
from hotswap.serving.engine.sequence import Batch, NextToken, Sequence
from hotswap.serving.execution.runner import ModelRunner
from hotswap.serving.models import StepInput, StepOutput
from hotswap.serving.settings import Kernels, Quantization
from tests.serving.conftest import MakeRunner
from tests.serving.sequences import make_sequence

NUM_SLOTS = 6


@dataclass
class Request:
    prompt: list[int]
    slot: int
    max_tokens: int
    arrives: int  # before this step
    leaves: int | None  # aborted before this step

    def sequence(self) -> Sequence:
        return make_sequence(self.prompt, slot=self.slot, max_tokens=self.max_tokens)


class Recorded:
    """A runner whose model's logits are kept, by sequence."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self._model = runner.model
        self._logits: dict[int, list[Tensor]] = {}

    def run(self, requests: list[Request], limits: Limits) -> tuple[Scheduler, list[Sequence]]:
        scheduler = Scheduler(limits)
        sequences = [request.sequence() for request in requests]
        step, left = 0, len(requests)
        while left:
            for request, sequence in zip(requests, sequences, strict=True):
                if request.arrives == step:
                    scheduler.add(sequence)
                if request.leaves == step and not sequence.is_finished:
                    scheduler.remove(sequence)
                    self.runner.release(sequence)
                    sequence.is_finished = True
                    left -= 1
            batch = scheduler.schedule(lambda _: Admission.ADMITTED)
            step += 1
            if not batch:
                continue
            by_pages = {id(work.sequence.pages): work.sequence.id for work in batch.works}
            for work, tokens in zip(batch.works, self._execute(batch, by_pages), strict=True):
                if any(delta.is_last for delta in work.advance(tokens)):
                    scheduler.remove(work.sequence)
                    self.runner.release(work.sequence)
                    work.sequence.is_finished = True
                    left -= 1
        return scheduler, sequences

    def _execute(self, batch: Batch, by_pages: dict[int, int]) -> list[list[NextToken]]:
        def forward(step: StepInput) -> StepOutput:
            output = self._model.forward(step)
            for row, logits in zip(step.wanted, output.logits, strict=True):
                (segment,) = (s for s in step.segments if s.start <= row < s.end)
                self._logits.setdefault(by_pages[id(segment.pages)], []).append(logits.clone())
            return output

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.runner, "model", _Forward(forward))
            return self.runner.execute(batch)

    def logits(self, sequence: Sequence) -> Tensor:
        return torch.stack(self._logits[sequence.id])


@dataclass
class _Forward:
    forward: Callable[[StepInput], StepOutput]


@pytest.fixture(scope="module")
def recorded(make_runner: MakeRunner) -> Recorded:
    return Recorded(make_runner(Kernels.NATIVE, Quantization.INT8))


def random_requests(rng: random.Random, vocab_size: int) -> list[Request]:
    """Prompts that begin alike, among them the same one for several adapters."""
    beginnings = [[rng.randrange(3, vocab_size) for _ in range(60)] for _ in range(3)]
    slots = rng.sample(range(NUM_SLOTS), 3)
    requests = []
    for _ in range(32):
        beginning = rng.choice(beginnings)[: rng.choice([0, 16, 31, 32, 48, 60])]
        end = [rng.randrange(3, vocab_size) for _ in range(rng.randint(0, 30))]
        arrives = rng.randrange(60)
        leaves = arrives + rng.randint(1, 30) if rng.random() < 0.15 else None
        requests.append(
            Request(
                (beginning + end) or [5],
                rng.choice(slots),
                rng.randint(10, 50),
                arrives,
                leaves,
            )
        )
    return requests


@pytest.mark.parametrize("seed", range(8))
def test_answers_and_logits_are_those_of_solo_runs_when_memory_is_short(
    recorded: Recorded, tiny_base: BaseDirectory, seed: int
) -> None:
    rng = random.Random(seed)
    requests = random_requests(rng, tiny_base.tokenizer.get_vocab_size())
    num_seqs, chunk = rng.randint(3, 8), rng.choice([5, 16, 33])
    limits = Limits(
        num_seqs,
        num_seqs + chunk + rng.randint(0, 40),
        chunk,
        num_pages=rng.randint(10, 14),  # one sequence needs up to 9
        is_cut_invariant=True,
        enable_prefix_caching=True,
    )
    scheduler, mixed = recorded.run(requests, limits)
    assert scheduler.num_preemptions
    assert scheduler.pages.num_evicted
    assert scheduler.num_cached_tokens
    assert scheduler.pages.num_available() == limits.num_pages
    alone = Limits(1, 257, 256, 16)
    for request, in_mix in rng.sample(list(zip(requests, mixed, strict=True)), 12):
        request.arrives, request.leaves = 0, None
        _, (solo,) = recorded.run([request], alone)
        num = len(in_mix.output_ids)
        assert in_mix.output_ids == solo.output_ids[:num]
        if num:
            assert torch.equal(recorded.logits(in_mix)[:num], recorded.logits(solo)[:num])


@pytest.mark.parametrize("seed", range(4))
def test_a_warm_cache_gives_the_answers_and_logits_of_a_cold_one(
    recorded: Recorded, tiny_base: BaseDirectory, seed: int
) -> None:
    rng = random.Random(100 + seed)
    requests = random_requests(rng, tiny_base.tokenizer.get_vocab_size())[:10]
    for request in requests:
        request.arrives, request.leaves = 0, None
    twice = [Request(r.prompt, r.slot, r.max_tokens, 300, None) for r in requests]
    limits = Limits(8, 64, 24, 256, is_cut_invariant=True, enable_prefix_caching=True)
    _, sequences = recorded.run(requests + twice, limits)
    cold, warm = sequences[: len(requests)], sequences[len(requests) :]
    assert all(s.num_cached >= (len(s.prompt_ids) - 1) // 16 * 16 for s in warm)
    for first, second in zip(cold, warm, strict=True):
        assert first.output_ids == second.output_ids
        assert torch.equal(recorded.logits(first), recorded.logits(second))

"""Guessing ahead: what is guessed and when, and that no answer changes by a bit."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.pages import PAGE
from hotswap.serving.engine.scheduler import MAX_GUESSING, Admission, Limits, Scheduler
from hotswap.serving.engine.sequence import Delta, FinishReason, NextToken, Sequence
from hotswap.serving.engine.speculation import FIRST_GUESS, MAX_PAUSE, GuessCounts, Lookup
from hotswap.serving.execution.runner import ModelRunner
from hotswap.serving.settings import Kernels, Quantization
from tests.serving.conftest import MakeRunner
from tests.serving.sequences import make_sequence

LIMITS = Limits(
    max_num_seqs=8,
    max_num_batched_tokens=64,
    prefill_chunk=16,
    num_pages=64,
    is_cut_invariant=True,
    num_speculative_tokens=8,
)
NO_GUESSES = replace(LIMITS, num_speculative_tokens=0)


@pytest.fixture(scope="module", params=[Quantization.INT8, Quantization.INT4])
def runner(make_runner: MakeRunner, request: pytest.FixtureRequest) -> ModelRunner:
    return make_runner(Kernels.NATIVE, request.param)


def lookup(max_guess: int = 8) -> Lookup:
    return Lookup(max_guess, GuessCounts())


def test_what_followed_the_last_tokens_before_is_guessed() -> None:
    assert lookup().guess([1, 2, 3, 4, 5, 6, 7], [9, 2, 3], 3) == (4, 5, 6)


def test_nothing_is_guessed_where_nothing_is_repeated() -> None:
    assert lookup().guess([1, 2, 3, 4, 5], [6, 7], 8) == ()


def test_the_longest_repetition_counts_and_of_equals_the_last() -> None:
    assert lookup().guess([1, 2, 3, 50, 8, 2, 3, 60], [1, 2, 3], 1) == (50,)
    assert lookup().guess([2, 3, 50, 2, 3, 60], [2, 3], 1) == (60,)


def test_a_guess_goes_on_with_a_loop_beyond_its_end() -> None:
    assert lookup().guess([1, 2, 3, 1, 2], [3], 4) == (1, 2, 3, 1)


def test_tokens_are_learnt_once_as_they_come() -> None:
    growing, output = lookup(), [4, 5]
    for token_id in (6, 7, 1, 2, 8, 1, 2):
        found = growing.guess([1, 2, 3], output, 2)
        assert found == lookup().guess([1, 2, 3], output, 2)
        output.append(token_id)
    assert growing.guess([1, 2, 3], output, 2) == (8, 1)


def test_right_guesses_grow_and_wrong_ones_shrink() -> None:
    prompt = [1, 2, 3] * 20
    guesses = lookup(max_guess=12)
    sizes = [len(guesses.guess(prompt, [], 99))]
    for accepted in (4, 8, 12, 5, 0):
        guesses.learn(sizes[-1], accepted, 0)
        sizes.append(len(guesses.guess(prompt, [], 99)))
    assert sizes == [FIRST_GUESS, 8, 12, 12, 7, 2]


def test_a_sequence_whose_guesses_are_always_wrong_all_but_stops_guessing() -> None:
    guesses, output = lookup(), [1, 2]
    guessed_at = []
    for step in range(600):
        if found := guesses.guess([1, 2, 3], output, 8):
            guessed_at.append(step)
            guesses.learn(len(found), 0, len(output) + 3)
        output += [1, 2]
    pauses = [b - a for a, b in pairwise(guessed_at)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE // 2  # this output grows by two tokens a step


class Run:
    """Runs sequences to the end and keeps what was given and how many steps it took."""

    def __init__(self, runner: ModelRunner, sequences: list[Sequence], limits: Limits) -> None:
        self.scheduler = Scheduler(limits)
        self.num_steps = 0
        for sequence in sequences:
            self.scheduler.add(sequence)
        while batch := self.scheduler.schedule(lambda _: Admission.ADMITTED):
            assert batch.num_tokens <= limits.max_num_batched_tokens
            self.num_steps += 1
            for work in batch.works:
                assert work.start + work.num_rows <= len(work.sequence.pages) * PAGE
            for work, tokens in zip(batch.works, runner.execute(batch), strict=True):
                for delta in work.advance(tokens):
                    work.sequence.deliver(delta)
                    if delta.is_last:
                        self.scheduler.remove(work.sequence)
                        runner.release(work.sequence)


def answers(
    runner: ModelRunner, requests: list[dict[str, Any]], limits: Limits
) -> tuple[Run, list[list[Delta]]]:
    found: list[list[Delta]] = [[] for _ in requests]
    sequences = [make_sequence(**r, deltas=d) for r, d in zip(requests, found, strict=True)]
    return Run(runner, sequences, limits), found


def repetitive(rng: random.Random, vocab_size: int) -> list[int]:
    """A prompt of a few phrases in random order: some of what is looked up is right."""
    phrases = [[rng.randrange(3, vocab_size) for _ in range(rng.randint(1, 5))] for _ in range(4)]
    return [token_id for _ in range(10) for token_id in rng.choice(phrases)][:60]


def random_request(rng: random.Random, vocab_size: int) -> dict[str, Any]:
    options: dict[str, Any] = rng.choice(
        [{}, {"logprobs": 3}, {"temperature": 0.8, "seed": 5}, {"frequency_penalty": 0.3}]
    )
    return {
        "prompt_ids": repetitive(rng, vocab_size),
        "slot": rng.randrange(6),
        "max_tokens": rng.randint(1, 90),
        "stop_token_ids": frozenset(rng.sample(range(3, vocab_size), 3)),
        **options,
    }


class Foreseen(Lookup):
    """Guesses what the answer will be, and now and then something else."""

    def __init__(self, answer: list[int], rng: random.Random, error: float) -> None:
        super().__init__(8, GuessCounts())
        self._answer, self._rng, self._error = answer, rng, error

    def guess(self, prompt_ids: list[int], output_ids: list[int], most: int) -> tuple[int, ...]:
        found = self._answer[len(output_ids) :][:most]
        return tuple(t if self._rng.random() > self._error else 9 for t in found)


@pytest.mark.parametrize("error", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("seed", range(8))
def test_tokens_logprobs_and_ends_are_the_same_whatever_was_guessed(
    runner: ModelRunner, tiny_base: BaseDirectory, seed: int, error: float
) -> None:
    rng = random.Random(seed)
    requests = [random_request(rng, tiny_base.tokenizer.get_vocab_size()) for _ in range(6)]
    limits = replace(LIMITS, max_num_seqs=rng.randint(1, 4), num_pages=rng.randint(12, 30))
    plain, expected = answers(runner, requests, replace(limits, num_speculative_tokens=0))
    found: list[list[Delta]] = [[] for _ in requests]
    sequences = [make_sequence(**r, deltas=d) for r, d in zip(requests, found, strict=True)]
    endless = [{**request, "stop_token_ids": frozenset()} for request in requests]
    _, foreseen = answers(runner, endless, replace(limits, num_speculative_tokens=0))
    for sequence, answer in zip(sequences, foreseen, strict=True):
        ids = [delta.token_id for delta in answer if delta.token_id is not None]
        sequence.lookup = Foreseen([*ids, *[9] * 8], rng, error)
    guessing = Run(runner, sequences, limits)
    assert found == expected
    assert guessing.num_steps < plain.num_steps


def test_answers_are_the_same_with_and_without_lookup(
    runner: ModelRunner, tiny_base: BaseDirectory
) -> None:
    rng, num_guessed = random.Random(1), 0
    for _ in range(6):
        requests = [random_request(rng, tiny_base.tokenizer.get_vocab_size()) for _ in range(4)]
        guessing, found = answers(runner, requests, LIMITS)
        assert found == answers(runner, requests, NO_GUESSES)[1]
        num_guessed += guessing.scheduler.guesses.num_guessed
    assert num_guessed > 0


def drafts(sequences: list[Sequence], limits: Limits = LIMITS) -> list[int]:
    """The sizes of the guesses in the first step in which all sequences decode."""
    scheduler = Scheduler(limits)
    for sequence in sequences:
        scheduler.add(sequence)
    while True:
        batch = scheduler.schedule(lambda _: Admission.ADMITTED)
        if all(work.is_decode for work in batch.works) and len(batch.works) == len(sequences):
            return [len(work.draft) for work in batch.works]
        for work in batch.works:
            work.advance([NextToken(5)] if work.samples else [])


def looping(**options: Any) -> Sequence:
    return make_sequence([5] * 15, **{"max_tokens": 40, **options})


def test_only_few_sequences_guess_and_share_what_may_be_guessed() -> None:
    assert drafts([looping()]) == [FIRST_GUESS]
    assert drafts([looping() for _ in range(3)]) == [2, 2, 2]  # 8 // 3
    assert drafts([looping() for _ in range(MAX_GUESSING)]) == [2] * MAX_GUESSING
    assert drafts([looping() for _ in range(MAX_GUESSING + 1)]) == [0] * (MAX_GUESSING + 1)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 0.1},
        {"logit_bias": {1: 1.0}},
        {"min_tokens": 3},
    ],
)
def test_only_what_takes_the_likeliest_token_guesses(options: dict[str, Any]) -> None:
    assert drafts([looping(**options)]) == [0]


def test_no_guess_goes_beyond_the_answers_last_token() -> None:
    assert drafts([looping(max_tokens=4)]) == [2]  # one token is there, one the step gives anyway
    assert drafts([looping(max_tokens=2)]) == [0]


def test_guesses_take_free_pages_only() -> None:
    # Two sequences of 16 tokens fill two pages; the first's guesses take the one that is left.
    both = [looping(max_tokens=30) for _ in range(2)]
    assert drafts(both, replace(LIMITS, num_pages=3)) == [4, 0]


def test_right_guesses_count_as_computed_and_a_finished_answer_takes_no_more() -> None:
    deltas: list[Delta] = []
    sequence = looping(max_tokens=4, deltas=deltas)
    scheduler = Scheduler(LIMITS)
    scheduler.add(sequence)
    (work,) = scheduler.schedule(lambda _: Admission.ADMITTED).works
    work.advance([NextToken(5)])
    (work,) = scheduler.schedule(lambda _: Admission.ADMITTED).works
    given = work.advance([NextToken(5)] * 3)
    assert [delta.finish_reason for delta in given] == [None, None, FinishReason.LENGTH]
    assert sequence.num_computed == sequence.num_tokens - 1 == 18
    assert (scheduler.guesses.num_guessed, scheduler.guesses.num_accepted) == (2, 2)

"""Sampling against the independent implementation in transformers, on random logits."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hotswap.serving.engine.sequence import NextToken, SamplingParams
from hotswap.serving.execution.sampling import (
    Chooser,
    distribution,
    likeliest,
    next_token,
    penalize,
)
from tests.serving.sequences import make_sequence

LOGITS = torch.tensor([1.0, 3.0, 2.0, 0.0, -1.0])
VOCAB_SIZE = 3000
STOP = 7

each_seed = pytest.mark.parametrize("seed", range(5))


def draw(num: int, **options: Any) -> Counter[int]:
    chooser = Chooser(make_sequence([0], seed=1, **options), len(LOGITS))
    return Counter(chooser.choose(LOGITS) for _ in range(num))


def random_logits(seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(VOCAB_SIZE, generator=generator) * scale


def by_transformers(logits: Tensor, *steps: Any, ids: tuple[int, ...] = (0,)) -> Tensor:
    """The scores after all steps, given the tokens so far."""
    scores: Tensor = LogitsProcessorList(steps)(torch.tensor([ids]), logits[None])[0]
    return scores


def spread(logits: Tensor, **options: Any) -> Tensor:
    """Probabilities of the whole vocabulary."""
    probabilities, ids = distribution(logits, SamplingParams(**options))
    return torch.zeros(len(logits)).index_copy(0, ids, probabilities)


def test_temperature_zero_is_the_likeliest_token() -> None:
    assert draw(5, temperature=0) == {1: 5}


def test_frequencies_follow_the_softmax() -> None:
    num = 4000
    counts = draw(num, temperature=1)
    expected = torch.softmax(LOGITS, 0)
    for token_id, probability in enumerate(expected.tolist()):
        deviation = (probability * (1 - probability) / num) ** 0.5
        assert abs(counts[token_id] / num - probability) < 4 * deviation


def test_top_k_keeps_the_k_likeliest() -> None:
    assert set(draw(300, temperature=1, top_k=2)) == {1, 2}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    # softmax is about (0.09, 0.64, 0.23, 0.03, 0.01): 0.64 < 0.7 <= 0.64 + 0.23
    assert set(draw(300, temperature=1, top_p=0.7)) == {1, 2}


def test_a_tiny_top_p_still_leaves_the_likeliest_token() -> None:
    assert draw(20, temperature=1, top_p=1e-9) == {1: 20}


def test_the_same_seed_draws_the_same_tokens() -> None:
    assert draw(50, temperature=1) == draw(50, temperature=1)


@each_seed
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, []),
        ({"top_k": 20}, [TopKLogitsWarper(20)]),
        ({"top_p": 0.6}, [TopPLogitsWarper(0.6)]),
        ({"top_p": 0.999}, [TopPLogitsWarper(0.999)]),
        ({"min_p": 0.05}, [MinPLogitsWarper(0.05)]),
        (
            {"min_p": 0.01, "top_k": 50, "top_p": 0.9},
            [MinPLogitsWarper(0.01), TopKLogitsWarper(50), TopPLogitsWarper(0.9)],
        ),
    ],
)
def test_what_may_be_drawn_is_what_transformers_leaves(
    seed: int, options: dict[str, Any], steps: list[Any]
) -> None:
    logits, temperature = random_logits(seed), 0.3 + seed / 4
    expected = by_transformers(logits, TemperatureLogitsWarper(temperature), *steps).softmax(-1)
    got = spread(logits, temperature=temperature, **options)
    assert torch.equal(got > 0, expected > 0)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)


def test_a_nucleus_larger_than_the_first_look_is_whole() -> None:
    flat = random_logits(3, scale=0.01)
    expected = by_transformers(flat, TopPLogitsWarper(0.8)).softmax(-1)
    assert int((expected > 0).sum()) > 1024
    assert torch.equal(spread(flat, top_p=0.8) > 0, expected > 0)


@each_seed
def test_the_repetition_penalty_is_transformers_on_prompt_and_output(seed: int) -> None:
    logits, rng = random_logits(seed), random.Random(seed)
    ids = [rng.randrange(VOCAB_SIZE) for _ in range(40)]
    sequence = make_sequence(ids[:25], repetition_penalty=1.3, max_tokens=99)
    for token_id in ids[25:]:
        sequence.append(NextToken(token_id))
    expected = by_transformers(logits, RepetitionPenaltyLogitsProcessor(1.3), ids=tuple(ids))
    assert Chooser(sequence, VOCAB_SIZE).choose(logits) == int(expected.argmax())
    is_seen = torch.zeros(VOCAB_SIZE, dtype=torch.bool)
    is_seen[ids] = True
    got = penalize(logits, sequence.sampling, is_seen, torch.zeros(VOCAB_SIZE))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_presence_counts_once_and_frequency_every_time_in_the_output_only() -> None:
    counts = torch.tensor([0.0, 3.0, 1.0, 0.0, 0.0])
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    got = penalize(LOGITS, params, torch.ones(5, dtype=torch.bool), counts)
    # OpenAI's own formula: mu - c · frequency - (c > 0) · presence
    torch.testing.assert_close(got, LOGITS - torch.tensor([0, 1.25, 0.75, 0, 0]))
    sequence = make_sequence([1, 1, 1], frequency_penalty=2.0)
    assert Chooser(sequence, 5).choose(LOGITS) == 1  # the prompt does not count
    sequence.append(NextToken(1))
    assert Chooser(sequence, 5).choose(LOGITS) == 2


def test_penalties_count_each_token_once_from_step_to_step() -> None:
    sequence = make_sequence([0], frequency_penalty=0.4, max_tokens=99)
    chooser, alone = Chooser(sequence, 5), []
    for _ in range(12):
        token_id = chooser.choose(LOGITS)
        alone.append(Chooser(sequence, 5).choose(LOGITS))  # counts everything anew
        sequence.append(NextToken(token_id))
    assert sequence.output_ids == alone
    assert len(set(alone)) > 1


@each_seed
def test_logit_bias_is_transformers_sequence_bias(seed: int) -> None:
    logits = random_logits(seed)
    bias = {seed: 9.5, 100 + seed: 9.0, int(logits.argmax()): -50.0}
    expected = by_transformers(
        logits, SequenceBiasLogitsProcessor([[[token_id], b] for token_id, b in bias.items()])
    )
    sequence = make_sequence([0], logit_bias=bias)
    assert Chooser(sequence, VOCAB_SIZE).choose(logits) == int(expected.argmax())


def test_no_stop_token_comes_before_min_tokens() -> None:
    logits = random_logits(0)
    logits[STOP] = 99.0
    sequence = make_sequence([5, 5], min_tokens=3, stop_token_ids=frozenset({STOP}), max_tokens=9)
    chooser = Chooser(sequence, VOCAB_SIZE)
    for num_output in range(4):
        step = MinNewTokensLengthLogitsProcessor(2, 3, STOP, device="cpu")
        expected = by_transformers(logits, step, ids=(5, 5, *sequence.output_ids))
        chosen = chooser.choose(logits)
        assert chosen == int(expected.argmax())
        assert (chosen == STOP) == (num_output == 3)
        sequence.append(NextToken(chosen))


def test_choosing_leaves_the_logits_as_they_are() -> None:
    logits = random_logits(1)
    before = logits.clone()
    options = {"repetition_penalty": 2.0, "frequency_penalty": 1.0, "logit_bias": {3: 5.0}}
    Chooser(make_sequence([3, 4], **options), VOCAB_SIZE).choose(logits)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("num", [0, 1, 5, 40, 60, 99])
def test_the_likeliest_are_a_stable_sorts_first_also_among_equals(num: int) -> None:
    values = torch.randint(0, 9, (60,), generator=torch.Generator().manual_seed(2)).float()
    assert (
        likeliest(values, num).tolist()
        == values.sort(descending=True, stable=True)[1][:num].tolist()
    )


def test_logprobs_are_the_models_own_before_penalties_and_temperature() -> None:
    params = SamplingParams(temperature=0.2, logit_bias={4: 100.0}, logprobs=2)
    found = next_token(LOGITS, 4, params).logprobs
    assert found is not None
    expected = torch.log_softmax(LOGITS, -1)
    assert found.chosen == float(expected[4])
    assert found.top == ((1, float(expected[1])), (2, float(expected[2])))
    assert sum(math.exp(float(lp)) for lp in expected) == pytest.approx(1)

from __future__ import annotations

from collections import Counter

import torch

from serving.sampling import make_generator, sample
from serving.sequence import SamplingParams

LOGITS = torch.tensor([1.0, 3.0, 2.0, 0.0, -1.0])


def draw(num: int, **options: float) -> Counter[int]:
    params = SamplingParams(seed=1, **options)
    generator = make_generator(params)
    return Counter(sample(LOGITS, params, generator) for _ in range(num))


def test_temperature_zero_is_the_likeliest_token() -> None:
    assert draw(5, temperature=0) == {1: 5}


def test_frequencies_follow_the_softmax() -> None:
    num = 4000
    counts = draw(num)
    expected = torch.softmax(LOGITS, 0)
    for token_id, probability in enumerate(expected.tolist()):
        deviation = (probability * (1 - probability) / num) ** 0.5
        assert abs(counts[token_id] / num - probability) < 4 * deviation


def test_top_k_keeps_the_k_likeliest() -> None:
    assert set(draw(300, top_k=2)) == {1, 2}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    # softmax is about (0.09, 0.64, 0.23, 0.03, 0.01): 0.64 < 0.7 <= 0.64 + 0.23
    assert set(draw(300, top_p=0.7)) == {1, 2}


def test_a_tiny_top_p_still_leaves_the_likeliest_token() -> None:
    assert draw(20, top_p=1e-9) == {1: 20}


def test_the_same_seed_draws_the_same_tokens() -> None:
    assert draw(50) == draw(50)

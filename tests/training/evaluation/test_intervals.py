from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from hotswap.training.evaluation.intervals import bootstrap, compare
from hotswap.training.evaluation.metrics import TEXT_METRICS
from tests.training.evaluation.answers import answered_rows, random_texts

KNOWN = {metric.name: metric for metric in TEXT_METRICS}


def test_the_interval_is_scipys_percentile_bootstrap() -> None:
    rows = answered_rows(random_texts(150, seed=4))
    metric = KNOWN["f1"]
    statistics = metric.statistics(rows)

    found = bootstrap(metric, statistics)

    expected = scipy.stats.bootstrap(
        (statistics[:, 0],), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert found.value == pytest.approx(statistics[:, 0].mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.008)


def test_a_seed_gives_the_same_interval_and_another_one_another() -> None:
    statistics = KNOWN["bleu"].statistics(answered_rows(random_texts(30, seed=5)))

    first, again = (bootstrap(KNOWN["bleu"], statistics, seed=7) for _ in range(2))
    other = bootstrap(KNOWN["bleu"], statistics, seed=8)

    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.low < first.value < first.high


@pytest.mark.parametrize(("num_won", "num_lost"), [(9, 1), (14, 8), (5, 5)])
def test_the_paired_test_of_exact_matches_is_mcnemars(num_won: int, num_lost: int) -> None:
    both = [("x", "x")] * 20 + [("y", "x")] * 10
    ours = answered_rows([*both, *[("x", "x")] * num_won, *[("y", "x")] * num_lost])
    theirs = answered_rows([*both, *[("y", "x")] * num_won, *[("x", "x")] * num_lost])
    em = KNOWN["em"]

    found = compare(em, em.statistics(ours), em.statistics(theirs))

    exact = scipy.stats.binomtest(num_won, num_won + num_lost).pvalue
    assert found.p_value == pytest.approx(exact, abs=0.03)
    assert found.estimate.value == pytest.approx((num_won - num_lost) / len(ours))
    assert found.estimate.low <= found.estimate.value <= found.estimate.high


def test_the_interval_of_a_difference_is_scipys_paired_bootstrap() -> None:
    metric = KNOWN["rouge_l"]
    ours, theirs = (
        metric.statistics(answered_rows(random_texts(150, seed=seed))) for seed in (6, 7)
    )

    found = compare(metric, ours, theirs)

    expected = scipy.stats.bootstrap(
        (ours[:, 0] - theirs[:, 0],), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    interval = (found.estimate.low, found.estimate.high)
    assert interval == pytest.approx((expected.low, expected.high), abs=0.01)


def test_a_model_beside_itself_differs_by_nothing_and_surely_so() -> None:
    statistics = KNOWN["bleu"].statistics(answered_rows(random_texts(40, seed=8)))

    found = compare(KNOWN["bleu"], statistics, statistics)

    assert (found.estimate.value, found.estimate.low, found.estimate.high) == (0, 0, 0)
    assert found.p_value == 1

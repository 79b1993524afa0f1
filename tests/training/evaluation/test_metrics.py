"""Every metric beside an independent implementation or its formula."""

from __future__ import annotations

import math
import random

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torchmetrics.functional.text import squad

from hotswap.training.data.texts import is_json
from hotswap.training.evaluation import texts
from hotswap.training.evaluation.classes import (
    OTHER,
    class_metrics,
    class_scores,
    classes_of,
    confusion,
)
from hotswap.training.evaluation.fields import field_counts
from hotswap.training.evaluation.metrics import JSON_METRICS, MODEL_METRICS, TEXT_METRICS, Metric
from tests.training.evaluation.answers import answered, answered_rows, random_texts

KNOWN = {metric.name: metric for metric in (*TEXT_METRICS, *MODEL_METRICS, *JSON_METRICS)}
PAIRS = random_texts(200, seed=0)


def test_exact_match_is_strict_normalised_or_squads() -> None:
    pairs = [("Fox", "Fox"), ("fox ", "Fox"), ("the fox!", "Fox"), ("dog", "Fox")]
    rows = answered_rows(pairs)

    found = [KNOWN[name].of(rows) for name in ("em", "em_normalised", "em_squad")]

    assert found == [0.25, 0.5, 0.75]


def test_token_f1_and_squad_match_are_those_of_torchmetrics() -> None:
    for answer, reference in PAIRS:
        expected = squad(
            [{"prediction_text": answer, "id": "1"}],
            [{"answers": {"answer_start": [0], "text": [reference]}, "id": "1"}],
        )
        assert 100 * texts.exact_squad(answer, reference) == float(expected["exact_match"])
        assert 100 * texts.token_f1(answer, reference) == pytest.approx(float(expected["f1"]))


def test_rouge_l_is_that_of_the_rouge_score_package() -> None:
    scorer = RougeScorer(["rougeL"])
    for answer, reference in PAIRS:
        expected = scorer.score(reference, answer)["rougeL"].fmeasure
        assert texts.rouge_l(answer, reference) == pytest.approx(expected)


@pytest.mark.parametrize("size", [1, 7, 200])
def test_bleu_added_up_over_rows_is_sacrebleus_of_the_corpus(size: int) -> None:
    pairs = PAIRS[-size:]
    answers, references = [a for a, _ in pairs], [r for _, r in pairs]

    found = KNOWN["bleu"].of(answered_rows(pairs))

    assert 100 * found == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)
    assert found > 0


def test_class_scores_and_confusion_are_those_of_scikit_learn() -> None:
    rng = random.Random(3)
    names = ["card lost", "card stolen", "pin", "top up", "refund"]
    expected = [rng.choice(names) for _ in range(120)]
    found = [rng.choice([e, e, rng.choice(names), "no idea"]) for e in expected]
    rows = answered_rows(list(zip(found, expected, strict=True)))
    classes = classes_of(expected)
    options = {"labels": list(classes), "zero_division": 0}
    by_class = precision_recall_fscore_support(expected, found, **options)

    micro, macro = (metric.of(rows) for metric in class_metrics(classes))

    assert classes == tuple(sorted(names))
    for column, field in zip(by_class, ("precision", "recall", "f1", "support"), strict=True):
        assert [getattr(s, field) for s in class_scores(rows, classes)] == pytest.approx(column)
    for value, average in ((micro, "micro"), (macro, "macro")):
        reference = precision_recall_fscore_support(expected, found, average=average, **options)
        assert value == pytest.approx(reference[2])
    table = confusion_matrix(
        expected, [f if f in names else OTHER for f in found], labels=[*classes, OTHER]
    )
    assert confusion(rows, classes) == table[:-1].tolist()


@pytest.mark.parametrize(
    "references",
    [
        ["yes"] * 9,
        ["one", "two", "three"],
        ["a\nb", "c\nd"] * 5,
        ["x" * 100, "y"] * 5,
        ["", ""],
    ],
)
def test_references_that_do_not_repeat_or_are_long_are_no_classes(references: list[str]) -> None:
    assert classes_of(references) == ()


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ('{"size": "L", "toppings": ["ham", "egg"], "to": {"zip": 8}}', (4, 0, 0)),
        ('{"to": {"zip": 8}, "toppings": ["egg", "ham"], "size": "L"}', (4, 0, 0)),
        ('{"size": "M", "toppings": ["ham"], "to": {"zip": 8}}', (2, 1, 2)),
        ('{"size": "L", "toppings": ["ham", "ham"], "to": {"zip": "8"}}', (2, 2, 2)),
        ('{"size": "L", "new": null, "to": {}}', (1, 2, 3)),
        ('{"size": "L"', (0, 0, 4)),
    ],
)
def test_fields_are_paths_with_values_and_items_come_in_any_order(
    answer: str, counts: tuple[int, int, int]
) -> None:
    reference = '{"size": "L", "toppings": ["ham", "egg"], "to": {"zip": 8}}'

    assert field_counts(answer, reference) == counts


def test_field_f1_is_of_the_fields_of_all_rows_together() -> None:
    rows = answered_rows([('{"a": 1, "b": 2}', '{"a": 1}'), ("none", '{"a": 1, "b": 2, "c": 3}')])

    # TP 1, FP 1, FN 3
    assert KNOWN["json_f1"].of(rows) == pytest.approx(2 / (2 + 1 + 3))
    assert KNOWN["json_valid"].of(rows) == 0.5


def test_json_is_what_the_standard_says() -> None:
    assert all(map(is_json, ["1", '"a"', "[]", ' {"a": null} ']))
    assert not any(map(is_json, ["", "NaN", "[Infinity]", "{'a': 1}", '{"a": 1} and more']))


def test_losses_are_sums_over_tokens_and_not_means_of_rows() -> None:
    rows = [
        answered("x", "x", logprob=-1.0, num_supervised=1, num_correct=1),
        answered("x", "x", logprob=-2.0, num_supervised=7, num_correct=3),
    ]

    found = {name: KNOWN[name].of(rows) for name in ("loss", "total_loss", "perplexity")}

    assert found == pytest.approx({"loss": 3 / 8, "total_loss": 3, "perplexity": math.exp(3 / 8)})
    assert KNOWN["token_accuracy"].of(rows) == 4 / 8


def test_stop_rate_and_length_ratio_tell_of_answers_that_do_not_end() -> None:
    rows = [
        answered("a b c d", "a b", is_ended=False),
        answered("a b", "a b"),
        answered("a b", "a b"),
    ]

    assert KNOWN["stop_rate"].of(rows) == pytest.approx(2 / 3)
    assert KNOWN["length_ratio"].of(rows) == pytest.approx(8 / 6)


@pytest.mark.parametrize("metric", KNOWN.values(), ids=lambda metric: metric.name)
def test_every_metric_says_its_formula_and_takes_many_sums_at_once(metric: Metric) -> None:
    rows = answered_rows([("a b", "a b"), ("a", "a b c"), ("[1]", "[1, 2]")])
    statistics = metric.statistics(rows)

    both = metric.value(statistics[[[0, 1, 2], [2, 2, 0]]].sum(1))

    assert both == pytest.approx([metric.of(rows), metric.of([rows[2], rows[2], rows[0]])])
    assert metric.formula.endswith(".")

from __future__ import annotations

import math
import random
import re
from collections import Counter

import pytest

from hotswap.training.data.example import Example
from hotswap.training.ladder.pool import Pool, without_leaks
from hotswap.training.ladder.retrieval import Retriever
from tests.training.rows import examples_of

LABELS = ("card", "pin", "refund")


def rows(pairs: list[tuple[str, str]]) -> list[Example]:
    return examples_of([{"question": q, "answer": a} for q, a in pairs])


def of_classes(sizes: tuple[int, ...]) -> list[Example]:
    return rows(
        [(f"question {n} of {label}", label) for label, size in zip(LABELS, sizes, strict=True)
         for n in range(size)]
    )  # fmt: skip


@pytest.mark.parametrize("k", [1, 3, 5, 7, 9])
def test_examples_show_each_class_as_often_as_the_next_but_for_one(k: int) -> None:
    pool = Pool(of_classes((40, 10, 3)), seed=3)

    counts = Counter(row.answers[-1] for row in pool.first(k))

    assert sum(counts.values()) == k
    assert max(counts.values()) - min(counts[label] for label in LABELS) <= 1


def test_the_seed_chooses_the_examples() -> None:
    train = of_classes((20, 20, 20))

    first, again, other = (Pool(train, seed).first(6) for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert sorted(map(str, Pool(train, 1).rows)) == sorted(map(str, train))


def test_answers_that_are_no_classes_are_drawn_from_all_rows() -> None:
    train = rows([(f"question {n}", f"answer {n}") for n in range(30)])

    chosen = Pool(train, seed=0).first(30)

    assert sorted(map(str, chosen)) == sorted(map(str, train))
    assert chosen != tuple(train)


def test_the_nearest_are_the_rows_most_like_the_question() -> None:
    train = rows(
        [("my card is lost", "a"), ("top up my account", "b"), ("the card got lost today", "c")]
    )
    (asked,) = rows([("LOST card!", "?")])

    assert [row.answers[-1] for row in Pool(train, 0).nearest(asked, 2)] == ["a", "c"]


def test_a_question_that_is_like_no_row_gets_the_rows_of_the_pools_order() -> None:
    pool = Pool(of_classes((5, 5, 5)), seed=4)
    asked = rows([("zzz", "?"), ("...", "?")])

    assert [pool.nearest(row, 4) for row in asked] == [pool.first(4)] * 2


def test_the_ranking_is_that_of_the_formula() -> None:
    """idf(w) = ln(1 + (N - n + ½) / (n + ½)); tf part f / (f + k1 (1 - b + b · |d| / mean |d|))."""
    chance = random.Random(5)
    words = ["card", "pin", "lost", "top", "up", "my", "the", "naïve"]
    texts = [" ".join(chance.choices(words, k=chance.randrange(1, 12))) for _ in range(60)]
    split = [Counter(re.findall(r"\w+", text)) for text in texts]
    mean = sum(c.total() for c in split) / len(split)

    def score(query: str, text: Counter[str]) -> float:
        found = 0.0
        for word in query.split():
            n = sum(word in other for other in split)
            idf = math.log(1 + (len(split) - n + 0.5) / (n + 0.5))
            norm = 1.5 * (1 - 0.75 + 0.75 * text.total() / mean)
            found += idf * text[word] / (text[word] + norm)
        return found

    retriever = Retriever(texts)
    for query in ("lost card", "naïve", "my pin top up"):
        ranked = retriever.ranked(query, 60)
        scores = [score(query, split[index]) for index in ranked]
        assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-5)
        assert sorted(ranked) == list(range(60))


def test_texts_without_words_can_be_ranked() -> None:
    assert Retriever(["!", "card"]).ranked("card", 2) == [1, 0]
    assert Retriever(["!", "?"]).ranked("card", 2) == [0, 1]
    assert Retriever(["pin", "card"]).ranked("…", 1) == [0]


def test_rows_that_are_nearly_training_rows_are_not_asked() -> None:
    train = rows([("I still have not received my new card, I ordered it a week ago", "late")])
    asked = rows(
        [
            ("i still have not  received my new card, i ordered it a week ago", "late"),
            ("I still have not received my new card, I ordered it a week ago!!", "late"),
            ("How do I top up?", "top_up"),
        ]
    )

    assert without_leaks(asked, train) == asked[2:]


def test_a_chain_of_near_duplicates_leaks_too() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    train = rows([(text, "a")])
    asked = rows([(text + " thirteen", "b"), (text + " thirteen fourteen", "c"), ("zebra", "d")])

    assert without_leaks(asked, train) == asked[2:]
    assert without_leaks(asked, asked[2:]) == asked[:2]

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations

import pytest

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.data.duplicates import jaccard, near_groups
from hotswap.training.data.texts import normalised
from tests.refusals import refused

WORDS = [f"{a}{b}{c}" for a in ("ka", "lo", "mi") for b in ("ten", "ru") for c in ("s", "d", "vo")]


def test_a_key_knows_no_case_width_or_white_space() -> None:
    assert normalised("  ＣＡＲＤ\u00a0 Straße\n") == normalised("card STRASSE") == "card strasse"


def test_jaccard_is_the_share_of_common_five_grams() -> None:
    # abcde bcdef cdefg against bcdef cdefg defgh: two of four
    assert jaccard("abcdefg", "bcdefgh") == 0.5
    assert jaccard("Abcdefg", " abcdefg") == 1
    assert jaccard("abc", "abd") == 0
    assert jaccard("", "") == 1


def test_exact_and_near_texts_share_a_group() -> None:
    near = "my card has not come after two weeks of waiting for it"
    texts = [near, "something else entirely", near + "!", "MY card " + near[8:], "still another"]

    assert near_groups(texts) == [[0, 2, 3]]


def variants(seed: int, count: int) -> Iterator[str]:
    """Sentences, each with up to four words of an earlier one replaced."""
    chance = random.Random(seed)
    sentences = [[chance.choice(WORDS) for _ in range(20)] for _ in range(count // 5)]
    for _ in range(count):
        words = list(chance.choice(sentences))
        for _ in range(chance.randrange(5)):
            words[chance.randrange(len(words))] = chance.choice(WORDS)
        yield " ".join(words)


@pytest.mark.parametrize("threshold", [0.8, 0.9])
def test_groups_are_those_of_comparing_every_pair(threshold: float) -> None:
    texts = list(variants(seed=1, count=200))
    group = list(range(len(texts)))
    for one, other in combinations(range(len(texts)), 2):
        if jaccard(texts[one], texts[other]) >= threshold:
            group = [group[one] if part == group[other] else part for part in group]
    together = [[i for i, part in enumerate(group) if part == name] for name in set(group)]
    expected = sorted(indexes for indexes in together if len(indexes) > 1)

    found = near_groups(texts, threshold)

    assert found == expected
    assert len(found) > 5


def test_a_chain_of_near_texts_is_one_group() -> None:
    words = next(variants(seed=2, count=5)).split()
    chain = [" ".join(words)]
    for index in range(0, len(words), 2):
        words[index] = "other" + words[index][0]
        chain.append(" ".join(words))

    assert jaccard(chain[0], chain[-1]) < 0.5
    assert near_groups(chain, 0.7) == [list(range(len(chain)))]


def test_no_text_and_one_text_have_no_group() -> None:
    assert near_groups([]) == near_groups(["one"]) == []


def test_a_threshold_that_would_miss_pairs_is_refused() -> None:
    with refused(InvalidRequest, "0.3"):
        near_groups(["a"], 0.3)

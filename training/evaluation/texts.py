"""Compares an answer with its reference as texts: each function scores from 0 to 1. Pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from hotswap.training.data.texts import normalised

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NOT_A_WORD = re.compile(r"[^a-z0-9]+")


def exact(answer: str, reference: str) -> float:
    """1 if answer = reference, character by character, else 0."""
    return float(answer == reference)


def exact_normalised(answer: str, reference: str) -> float:
    """1 if n(answer) = n(reference), n as `normalised`, else 0."""
    return float(normalised(answer) == normalised(reference))


def squad_normalised(text: str) -> str:
    """Lower case; without ASCII punctuation; without a, an, the; white space collapsed (Rajpurkar
    et al. 2016, "SQuAD", its evaluation script)."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_squad(answer: str, reference: str) -> float:
    """1 if s(answer) = s(reference), s as `squad_normalised`, else 0."""
    return float(squad_normalised(answer) == squad_normalised(reference))


def token_f1(answer: str, reference: str) -> float:
    """F1 = 2PR / (P + R) of the words left by `squad_normalised`, counted as often as they occur in
    both: P = common / words of the answer, R = common / words of the reference.

    1 when neither has words, 0 when one has none (SQuAD 2.0's script).
    """
    answered, expected = squad_normalised(answer).split(), squad_normalised(reference).split()
    if not answered or not expected:
        return float(answered == expected)
    common = (Counter(answered) & Counter(expected)).total()
    return 2 * common / (len(answered) + len(expected))


def rouge_l(answer: str, reference: str) -> float:
    """F1 = 2PR / (P + R) of the longest common subsequence of words: P = LCS / words of the answer,
    R = LCS / words of the reference (Lin 2004).

    Words are what the rouge-score package takes without a stemmer: runs of a-z and 0-9 of the text
    in lower case. 0 when either text has none.
    """
    answered, expected = (_NOT_A_WORD.sub(" ", t.lower()).split() for t in (answer, reference))
    common = _longest_common(answered, expected)
    return 2 * common / (len(answered) + len(expected)) if common else 0.0


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence; O(len(one) · len(other)) time."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for at, against in enumerate(other, start=1):
            above = row[at]
            row[at] = diagonal + 1 if word == against else max(above, row[at - 1])
            diagonal = above
    return row[-1]

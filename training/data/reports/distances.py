"""How far two samples of texts are apart: six figures, each 0 (alike) to 1. No torch.

What a text is like (`Traits`) is found once; samples and what is left of them are then sums.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from hotswap.training.data.texts import structure_of

_NGRAM = 3


@dataclass(frozen=True, slots=True)
class Traits:
    """What one text is like."""

    length: int
    words: Counter[str]
    ngrams: Counter[str]
    form: str
    language: str

    @classmethod
    def of(cls, text: str) -> Traits:
        import py3langid

        language = py3langid.classify(text)[0]
        return cls(len(text), Counter(words(text)), Counter(ngrams(text)), form(text), language)


@dataclass(frozen=True, slots=True)
class Sample:
    """The traits of several texts together."""

    lengths: Counter[int]
    words: Counter[str]
    ngrams: Counter[str]
    forms: Counter[str]
    languages: Counter[str]

    @classmethod
    def of(cls, traits: Iterable[Traits]) -> Sample:
        sample = cls(Counter(), Counter(), Counter(), Counter(), Counter())
        for each in traits:
            sample.lengths[each.length] += 1
            sample.words.update(each.words)
            sample.ngrams.update(each.ngrams)
            sample.forms[each.form] += 1
            sample.languages[each.language] += 1
        return sample

    def without(self, part: Sample) -> Sample:
        """What is left when the texts of `part`, which are among these, are taken out."""
        return Sample(
            self.lengths - part.lengths,
            self.words - part.words,
            self.ngrams - part.ngrams,
            self.forms - part.forms,
            self.languages - part.languages,
        )


@dataclass(frozen=True, slots=True)
class Distance:
    """A figure's name, its formula in words, and how it is computed: of a sample, to another."""

    name: str
    formula: str
    of: Callable[[Sample, Sample], float]


def length_distance(sample: Sample, known: Sample) -> float:
    lengths = [list(each.lengths.elements()) for each in (sample, known)]
    return float(ks_2samp(*lengths, method="asymp").statistic)


DISTANCES: tuple[Distance, ...] = (
    Distance(
        "length",
        "two-sample Kolmogorov-Smirnov D of lengths in characters",
        length_distance,
    ),
    Distance(
        "unseen_words",
        "share of words that no training row has",
        lambda sample, known: _unseen(sample.words, known.words),
    ),
    Distance(
        "unseen_ngrams",
        "share of character 3-grams that no training row has",
        lambda sample, known: _unseen(sample.ngrams, known.ngrams),
    ),
    Distance(
        "words",
        "Jensen-Shannon divergence of word frequencies, in bits",
        lambda sample, known: divergence(sample.words, known.words),
    ),
    Distance(
        "form",
        "total variation of JSON, SQL, code, casing and kind of sentence",
        lambda sample, known: _total_variation(sample.forms, known.forms),
    ),
    Distance(
        "language",
        "total variation of languages as py3langid tells them",
        lambda sample, known: _total_variation(sample.languages, known.languages),
    ),
)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def ngrams(text: str) -> list[str]:
    flat = f" {' '.join(text.casefold().split())} "
    return [flat[i : i + _NGRAM] for i in range(len(flat) - _NGRAM + 1)]


def form(text: str) -> str:
    """What a request looks like: its kind, its casing, and whether white space is irregular."""
    if (structure := structure_of(text)) is not None:
        return structure.lower()
    kind = "question" if text.rstrip().endswith("?") else "text"
    casing = "lower" if text.islower() else "upper" if text.isupper() else "mixed"
    return f"{kind} {casing}{'' if text == ' '.join(text.split()) else ' irregular'}"


def divergence(one: Counter[str], other: Counter[str]) -> float:
    """JSD(P, Q) = ½ KL(P‖M) + ½ KL(Q‖M), M = ½ (P + Q), in bits (Lin 1991); 1 when one is empty."""
    keys = sorted(one.keys() | other.keys())
    if not one or not other:
        return float(bool(keys))
    p, q = ([counter[key] for key in keys] for counter in (one, other))
    return float(jensenshannon(p, q, base=2) ** 2)


def _unseen(counts: Counter[str], known: Counter[str]) -> float:
    return sum(n for part, n in counts.items() if part not in known) / max(counts.total(), 1)


def _total_variation(one: Counter[str], other: Counter[str]) -> float:
    """½ Σ |p − q|."""
    keys = one.keys() | other.keys()
    return 0.5 * sum(abs(one[k] / one.total() - other[k] / other.total()) for k in keys)

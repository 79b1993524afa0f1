"""Ranks texts by BM25 (Robertson et al. 1994; bm25s, its Lucene form, k1 = 1.5, b = 0.75)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import bm25s
import numpy as np

from hotswap.training.data.texts import normalised

_WORD = re.compile(r"\w+")


class Retriever:
    """Words are runs of letters, digits and `_` of a text's `key`; there is at least one text."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._num_texts = len(texts)
        self._index = bm25s.BM25()
        # Text without words is one empty word, which no query has: bm25s refuses a corpus of none.
        self._index.index([_words(text) or [""] for text in texts], show_progress=False)

    def ranked(self, query: str, k: int) -> list[int]:
        """The indexes of the k best texts, the best first, equally good ones in their order."""
        if not (words := _words(query)):
            return list(range(min(k, self._num_texts)))
        scores = self._index.get_scores(words)
        return [int(index) for index in np.argsort(-scores, kind="stable")[:k]]


def _words(text: str) -> list[str]:
    return _WORD.findall(normalised(text))

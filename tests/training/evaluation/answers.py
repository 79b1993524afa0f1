"""Rows with answers, made up."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hotswap.training.data.example import Place
from hotswap.training.evaluation.answered import AnsweredRow


def answered(answer: str, reference: str, line: int = 1, **known: float) -> AnsweredRow:
    """Tokens are words, and every reference has a probability of 1, unless `known` says more."""
    values = {
        "num_answer_tokens": len(answer.split()),
        "num_reference_tokens": len(reference.split()),
        "num_prompt_tokens": 5,
        "latency_s": 0.1,
        "logprob": 0.0,
        "num_supervised": len(reference.split()) + 1,
        "num_correct": 0,
        "is_ended": True,
        **known,
    }
    question = ({"role": "user", "content": f"question {line}"},)
    return AnsweredRow(Place("test.jsonl", line), question, reference, answer, **values)


def answered_rows(pairs: Sequence[tuple[str, str]]) -> list[AnsweredRow]:
    return [answered(answer, reference, line) for line, (answer, reference) in enumerate(pairs, 1)]


def random_texts(count: int, seed: int) -> list[tuple[str, str]]:
    """Pairs that have words, articles, punctuation and cases in common, some of them empty."""
    rng = random.Random(seed)
    words = ["The", "the", "a", "fox", "Fox,", "dog.", "jumps", "over", "It's", "42", "naïve", "-"]
    return [
        tuple(" ".join(rng.choices(words, k=rng.randrange(9))) for _ in range(2))  # type: ignore[misc]
        for _ in range(count)
    ]

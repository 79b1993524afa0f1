"""Rows of an evaluation set beside the answers they got. Pure: the metrics read nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from hotswap.registry.domain.prompts import Message
from hotswap.training.data.example import Place


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """One question, the answer the set gives (`reference`) and the one the model gave.

    `is_ended` says whether the end token came before the limit. `logprob` is Σ ln p over the
    `num_supervised` tokens of the row's own answers, `num_correct` of which are the likeliest at
    their place. Token counts leave the end token out.
    """

    place: Place
    question: tuple[Message, ...]
    reference: str
    answer: str
    is_ended: bool
    num_answer_tokens: int
    num_reference_tokens: int
    num_prompt_tokens: int
    latency_s: float
    logprob: float
    num_supervised: int
    num_correct: int

"""Chooses the next token of each row, from its own logits, tokens and seed alone.

The order is vLLM's: logit_bias, penalties, min_tokens; then temperature, min-p, top-k, top-p.
Log probabilities are the model's own, before all of these.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hotswap.serving.engine.sequence import Logprobs, NextToken, SamplingParams, Sequence

_FIRST_LOOK = 1024
"""So many of the likeliest tokens usually hold a nucleus; sorting all of them takes far longer."""


class Chooser:
    """One sequence's way to its next token: its random numbers, and what its penalties count.

    Invariant: what is counted is the sequence's own prompt and output, each token once.
    """

    def __init__(self, sequence: Sequence, vocab_size: int) -> None:
        self._sequence = sequence
        self._params = params = sequence.sampling
        self._generator = _make_generator(params)
        self._bias_ids = torch.tensor(list(params.logit_bias), dtype=torch.long)
        self._bias = torch.tensor(list(params.logit_bias.values()))
        self._stop_ids = torch.tensor(sorted(params.stop_token_ids), dtype=torch.long)
        self._is_seen = torch.zeros(vocab_size, dtype=torch.bool)
        self._counts = torch.zeros(vocab_size)  # of the output
        self._num_counted = 0
        if params.has_penalties:
            self._is_seen[torch.tensor(sequence.prompt_ids)] = True

    def choose(self, logits: Tensor) -> int:
        """The next token from `logits` (vocab,), which are left as they are."""
        params = self._params
        adjusted = logits.float().clone()
        if params.logit_bias:
            adjusted[self._bias_ids] += self._bias
        if params.has_penalties:
            self._count()
            adjusted = penalize(adjusted, params, self._is_seen, self._counts)
        if len(self._sequence.output_ids) < params.min_tokens:
            adjusted[self._stop_ids] = -math.inf
        if self._generator is None:
            return int(adjusted.argmax())
        return _draw(*distribution(adjusted, params), self._generator)

    def _count(self) -> None:
        for token_id in self._sequence.output_ids[self._num_counted :]:
            self._counts[token_id] += 1
            self._is_seen[token_id] = True
        self._num_counted = len(self._sequence.output_ids)


def next_token(logits: Tensor, token_id: int, params: SamplingParams) -> NextToken:
    """The chosen token, and what the model thought of it when that was asked for."""
    if params.logprobs is None:
        return NextToken(token_id)
    return NextToken(token_id, logprobs_of(logits, token_id, params.logprobs))


def logprobs_of(logits: Tensor, token_id: int, num_top: int) -> Logprobs:
    """What `logits` (vocab,) say of a token, and the `num_top` likeliest."""
    logprobs = torch.log_softmax(logits.float(), -1)
    top = likeliest(logits, num_top)
    pairs = zip(top.tolist(), logprobs[top].tolist(), strict=True)
    return Logprobs(float(logprobs[token_id]), tuple(pairs))


def likeliest(values: Tensor, num: int) -> Tensor:
    """The indices of the `num` greatest, greatest first and the first of equals first."""
    if num >= len(values):
        return values.sort(descending=True, stable=True).indices
    if num == 0:
        return torch.empty(0, dtype=torch.long)
    least = values.topk(num).values[-1]
    kept = (values >= least).nonzero()[:, 0]
    return kept[values[kept].sort(descending=True, stable=True).indices[:num]]


def penalize(logits: Tensor, params: SamplingParams, is_seen: Tensor, counts: Tensor) -> Tensor:
    """Repetition penalty (Keskar et al. 2019) on prompt and output, OpenAI's two on the output."""
    factor = params.repetition_penalty
    if factor != 1:
        less = torch.where(logits > 0, logits / factor, logits * factor)
        logits = torch.where(is_seen, less, logits)
    return logits - params.frequency_penalty * counts - params.presence_penalty * (counts > 0)


def distribution(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The tokens that may be drawn: their probabilities, which add up to 1, and their ids."""
    scaled = logits / params.temperature
    ids = torch.arange(len(scaled))
    if params.min_p:
        ids = (scaled >= scaled.max() + math.log(params.min_p)).nonzero()[:, 0]
    if 0 < params.top_k < len(ids):
        ids = ids[likeliest(scaled[ids], params.top_k)]
    probabilities = torch.softmax(scaled[ids], -1)
    if params.top_p < 1:
        kept = _nucleus(probabilities, params.top_p)
        probabilities, ids = probabilities[kept], ids[kept]
    return probabilities / probabilities.sum(), ids


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The smallest set whose probability reaches `top_p`; the likeliest token is always in it."""
    order = likeliest(probabilities, _FIRST_LOOK)
    if float(probabilities[order].double().sum()) < top_p:
        order = likeliest(probabilities, len(probabilities))
    sorted_probabilities = probabilities[order].double()
    before = sorted_probabilities.cumsum(-1) - sorted_probabilities
    return order[: max(1, int((before < top_p).sum()))]


def _draw(probabilities: Tensor, ids: Tensor, generator: torch.Generator) -> int:
    """One random number a token, so that a seed gives the same tokens whatever else is drawn."""
    up_to = probabilities.double().cumsum(-1)
    point = torch.rand((), dtype=torch.float64, generator=generator) * up_to[-1]
    at = torch.searchsorted(up_to, point, right=True)
    last = torch.searchsorted(up_to, up_to[-1])  # what follows it has no probability
    return int(ids[torch.minimum(at, last)])


def _make_generator(params: SamplingParams) -> torch.Generator | None:
    """The sequence's own random numbers; None for greedy choice."""
    if params.is_greedy:
        return None
    generator = torch.Generator()
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed)
    return generator

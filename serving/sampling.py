"""Chooses the next token of each row. A row's choice depends on its own logits and seed only."""

from __future__ import annotations

import torch
from torch import Tensor

from serving.sequence import SamplingParams


def make_generator(params: SamplingParams) -> torch.Generator | None:
    """The sequence's own random numbers; None for greedy choice."""
    if params.temperature == 0:
        return None
    generator = torch.Generator()
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed)
    return generator


def sample(logits: Tensor, params: SamplingParams, generator: torch.Generator | None) -> int:
    """One token id from `logits` (vocab,).

    Temperature first, then top-k, then top-p (the smallest set whose probability reaches it, the
    likeliest token always in it), as in vLLM.
    """
    if generator is None:
        return int(logits.argmax())
    scaled, order = (logits.float() / params.temperature).sort(descending=True, stable=True)
    if params.top_k:
        scaled, order = scaled[: params.top_k], order[: params.top_k]
    probabilities = torch.softmax(scaled, -1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= params.top_p, 0.0)
    probabilities[0] = probabilities[0].clamp_min(torch.finfo(probabilities.dtype).tiny)
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])

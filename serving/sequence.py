"""One request's tokens, what runs this step, and what streams out. No tensors, no policy."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from registry.digests import Digest
from registry.errors import HotswapError
from serving.speculation import Lookup

_ids = itertools.count(1)

MIN_TEMPERATURE = 1e-5
"""Below it logits divided by it may overflow; the choice is greedy."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen, in the field's usual names."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 considers every token."""
    min_p: float = 0.0
    """The least probability beside the likeliest token's; 0 considers every token."""
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    max_tokens: int = 256
    min_tokens: int = 0
    """No stop token before so many."""
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    """Whether log probabilities are told, and of how many likeliest tokens beside the chosen."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature < MIN_TEMPERATURE

    @property
    def has_penalties(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    @property
    def takes_likeliest(self) -> bool:
        """Whether the next token is the likeliest one, whatever came before."""
        return not (
            self.temperature >= MIN_TEMPERATURE
            or self.logit_bias
            or self.min_tokens
            or self.has_penalties
        )


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log probabilities (natural) by the model itself: the chosen token's, and the likeliest
    tokens' with their ids."""

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class NextToken:
    token_id: int
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step adds to a sequence: a token, the end, or an error.

    `token_id` is None when the step brought only the end (a stop token is not passed on).
    """

    token_id: int | None = None
    finish_reason: FinishReason | None = None
    error: HotswapError | None = None
    logprobs: Logprobs | None = None

    @property
    def is_last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


@dataclass(eq=False, slots=True)
class Sequence:
    """A request on its way. Keeps its adapter digest for life; None is the base alone.

    `num_computed` counts the tokens whose keys and values are in `pages` of the cache. `deliver`
    is called on the engine's thread, once a Delta, the last one with `is_last`.
    """

    prompt_ids: list[int]
    adapter: Digest | None
    sampling: SamplingParams
    deliver: Callable[[Delta], None]
    id: int = field(default_factory=lambda: next(_ids))
    output_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    pages: array[int] = field(default_factory=lambda: array("i"))
    slot: int = 0
    scale: float = 1.0
    """Factor of the adapter's effect."""
    stacked: tuple[tuple[Digest, float], ...] = ()
    """More adapters and their scales, in the order in which they apply after the first."""
    stacked_slots: tuple[int, ...] = ()
    num_overtaken: int = 0
    is_finished: bool = False
    lookup: Lookup | None = None

    @property
    def adapters(self) -> tuple[tuple[Digest, float], ...]:
        """All adapters and their scales, in the order in which they apply."""
        return () if self.adapter is None else ((self.adapter, self.scale), *self.stacked)

    @property
    def slots(self) -> tuple[tuple[int, float], ...]:
        """The slots that `adapters` have a lease of, and their scales."""
        if not self.slot:
            return ()
        scales = (scale for _, scale in self.stacked)
        return (self.slot, self.scale), *zip(self.stacked_slots, scales, strict=True)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def max_num_tokens(self) -> int:
        """The most tokens the sequence can ever have; its room in the cache is reserved for it."""
        return len(self.prompt_ids) + self.sampling.max_tokens

    @property
    def is_decoding(self) -> bool:
        return self.num_computed >= len(self.prompt_ids)

    def tokens(self, start: int, length: int) -> list[int]:
        """Token ids `start` to `start + length` of prompt and output together."""
        num_prompt = len(self.prompt_ids)
        if start >= num_prompt:
            return self.output_ids[start - num_prompt : start - num_prompt + length]
        return self.prompt_ids[start : start + length]

    def append(self, token: NextToken) -> Delta:
        """Take the next token and say what streams out."""
        if token.token_id in self.sampling.stop_token_ids:
            return Delta(finish_reason=FinishReason.STOP)
        self.output_ids.append(token.token_id)
        is_full = len(self.output_ids) >= self.sampling.max_tokens
        reason = FinishReason.LENGTH if is_full else None
        return Delta(token.token_id, reason, logprobs=token.logprobs)


@dataclass(frozen=True, slots=True)
class Work:
    """The tokens `start` to `start + length` of one sequence, to be computed in one step.

    `draft` are guesses at the tokens that follow, computed behind them: each one that is right
    saves a step.
    """

    sequence: Sequence
    start: int
    length: int
    draft: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        return self.length + len(self.draft)

    @property
    def is_decode(self) -> bool:
        return self.start >= len(self.sequence.prompt_ids)

    @property
    def samples(self) -> bool:
        """Whether the step reaches the sequence's last token and so yields the next one."""
        return self.start + self.length == self.sequence.num_tokens

    def advance(self, tokens: list[NextToken]) -> list[Delta]:
        """Count the work as done and take the tokens that it gave; what streams out for them.

        Each token but the first was preceded by a right guess, which is computed, too.
        """
        sequence = self.sequence
        deltas: list[Delta] = []
        sequence.num_computed += self.length
        for token in tokens:
            if deltas:
                sequence.num_computed += 1
            deltas.append(delta := sequence.append(token))
            if delta.is_last:
                break
        if self.draft and sequence.lookup:
            sequence.lookup.learn(len(self.draft), len(tokens) - 1, sequence.num_tokens)
        return deltas


@dataclass(frozen=True, slots=True)
class Batch:
    """What runs this step: at most one piece of work a sequence."""

    works: tuple[Work, ...]

    @property
    def num_tokens(self) -> int:
        return sum(work.num_rows for work in self.works)

    def __bool__(self) -> bool:
        return bool(self.works)

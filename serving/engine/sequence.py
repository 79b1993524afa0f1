"""One request's tokens, what runs this step, and what streams out. No tensors, no policy."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import HotswapError
from hotswap.serving.engine.pages import PAGE
from hotswap.serving.engine.speculation import Lookup

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
    """Whether log probabilities are returned, and of how many likeliest tokens."""
    prompt_logprobs: int | None = None
    """The same for the prompt's own tokens, the first excepted; nothing before them is reused."""

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

    `token_id` is None when the step brought only the end: a stop token is not passed on, and only
    given as `end_id` where the prompt's log probabilities are returned, too.
    """

    token_id: int | None = None
    finish_reason: FinishReason | None = None
    error: HotswapError | None = None
    logprobs: Logprobs | None = None
    end_id: int | None = None

    @property
    def is_last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


@dataclass(eq=False, slots=True)
class Sequence:
    """A request on its way. Keeps the digests of its `adapters` for life, with their scales, in the
    order in which they apply; none for the base alone.

    `num_computed` counts the tokens whose keys and values are in `pages` of the cache. `deliver`
    is called on the engine's thread, once a Delta, the last one with `is_last`.
    """

    prompt_ids: list[int]
    adapters: tuple[tuple[Digest, float], ...]
    sampling: SamplingParams
    deliver: Callable[[Delta], None]
    id: int = field(default_factory=lambda: next(_ids))
    output_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    pages: array[int] = field(default_factory=lambda: array("i"))
    slots: tuple[tuple[int, float], ...] = ()
    """The slots that `adapters` have a lease of, and their scales."""
    num_overtaken: int = 0
    is_finished: bool = False
    num_cached: int = 0
    """Tokens of the prompt that were found in the cache when the sequence first started."""
    num_charged: int = 0
    """Tokens that its adapter was charged for; what is computed again after a preemption is not."""
    num_kept: int = 0
    """Pages from the first on that others may find."""
    num_preempted: int = 0
    lookup: Lookup | None = None
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    """Of prompt tokens 1, 2, … when they were asked for; complete at the first output token."""
    _page_digests: list[bytes] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def max_num_tokens(self) -> int:
        """The most tokens the sequence can ever have."""
        return len(self.prompt_ids) + self.sampling.max_tokens

    @property
    def account(self) -> Hashable:
        """Who is served: sequences of one account must have the same adapters to start."""
        return tuple(digest for digest, _ in self.adapters)

    @property
    def cache_key(self) -> Hashable:
        """All that keys and values depend on beside the tokens: adapters and scales in order."""
        return self.adapters

    def page_key(self, index: int) -> tuple[Hashable, bytes]:
        """What page `index` holds once it is full: 256 bits over its tokens and all before them."""
        while (known := len(self._page_digests)) <= index:
            before = self._page_digests[-1] if known else b""
            token_ids = array("i", self.tokens(known * PAGE, PAGE))
            digest = blake2b(before + token_ids.tobytes(), digest_size=32)
            self._page_digests.append(digest.digest())
        return self.cache_key, self._page_digests[index]

    def tokens(self, start: int, length: int) -> list[int]:
        """Token ids `start` to `start + length` of prompt and output together."""
        num_prompt, end = len(self.prompt_ids), start + length
        outputs = self.output_ids[max(start - num_prompt, 0) : max(end - num_prompt, 0)]
        return self.prompt_ids[start:end] + outputs

    def append(self, token: NextToken) -> Delta:
        """Take the next token and say what streams out."""
        if token.token_id in self.sampling.stop_token_ids:
            if self.sampling.prompt_logprobs is None:
                return Delta(finish_reason=FinishReason.STOP)
            return Delta(None, FinishReason.STOP, logprobs=token.logprobs, end_id=token.token_id)
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
        return self.length == 1 and self.start >= len(self.sequence.prompt_ids)

    @property
    def num_scored_rows(self) -> int:
        """Its first rows, each of which gives the log probability of the prompt's next token."""
        if self.sequence.sampling.prompt_logprobs is None:
            return 0
        last = len(self.sequence.prompt_ids) - 1
        return max(min(self.start + self.length, last) - self.start, 0)

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
    """What runs this step: at most one piece of work a sequence.

    `preempted` sequences gave their room back for it, wait again, and need their adapter anew.
    """

    works: tuple[Work, ...]
    preempted: tuple[Sequence, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(work.num_rows for work in self.works)

    def __bool__(self) -> bool:
        return bool(self.works)

"""One request's answer as it grows: tokens from the engine's thread become text on the event loop.

Watches stop strings and frees the engine's room when the reader goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import partial

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import HotswapError, Unavailable
from hotswap.serving.engine.sequence import Delta, FinishReason, Logprobs, SamplingParams, Sequence
from hotswap.serving.requests.deliveries import Deliveries


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that choice `index` gains, the token that brought it, and why it ended if it did; the
    stop token that ended it only where Delta gives it."""

    index: int
    text: str
    finish_reason: FinishReason | None = None
    token_id: int | None = None
    logprobs: Logprobs | None = None
    end_id: int | None = None


class TextStream:
    """Text of one sequence, held back while it could still become a stop string.

    Invariant: what was given out, joined, is the decoded output up to the first stop string that
    lies behind the first `min_tokens` tokens.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop_strings: list[str], *, min_tokens: int = 0
    ) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop_strings = stop_strings
        self._min_tokens = min_tokens
        self._ids: list[int] = []
        self._num_decoded = 0
        self._held = ""

    def push(self, token_id: int) -> tuple[str, bool]:
        """The text that is certain after this token, and whether a stop string was met."""
        self._ids.append(token_id)
        text: str | None = self._decoder.step(self._tokenizer, token_id)
        if text is None:
            return "", False
        return self._take(text)

    def flush(self) -> tuple[str, bool]:
        """What is left at the end: an incomplete character, text held back for a stop string."""
        whole: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        text, is_stopped = self._take(whole[self._num_decoded :])
        rest, self._held = self._held, ""
        return text + rest, is_stopped

    def _take(self, text: str) -> tuple[str, bool]:
        self._num_decoded += len(text)
        self._held += text
        if len(self._ids) < self._min_tokens:
            certain, self._held = self._held, ""
            return certain, False
        places = [at for s in self._stop_strings if (at := self._held.find(s)) >= 0]
        if places:
            certain, self._held = self._held[: min(places)], ""
            return certain, True
        num_held = max((_overlap(self._held, s) for s in self._stop_strings), default=0)
        cut = len(self._held) - num_held
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain, False


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class Generation:
    """The `n` answers to one request. Must be closed; `pieces` ends when all have ended."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt_ids: list[int],
        adapters: Rows[tuple[Digest, float]],
        samplings: list[SamplingParams],
        stop_strings: list[str],
        abort: Callable[[Sequence], None],
        deliveries: Deliveries,
    ) -> None:
        """One answer for each of `samplings`; `adapters` and their scales apply in their order.

        Must be made on the event loop that will read it.
        """
        self._queue: asyncio.Queue[tuple[int, Delta]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._abort = abort
        self._deliveries = deliveries
        self.prompt_ids = prompt_ids
        self.sequences = [
            Sequence(prompt_ids, tuple(adapters), sampling, self._receiver(index))
            for index, sampling in enumerate(samplings)
        ]
        self._texts = [
            TextStream(tokenizer, stop_strings, min_tokens=sampling.min_tokens)
            for sampling in samplings
        ]
        self._open = set(range(len(samplings)))
        self.answer_lengths = [0] * len(samplings)
        """Tokens of each answer, up to the one that completed a stop string: the engine may have
        computed more before it heard of it."""

    @property
    def num_output_tokens(self) -> int:
        return sum(self.answer_lengths)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Raises the HotswapError a sequence ended with."""
        while self._open:
            index, delta = await self._queue.get()
            if index in self._open:
                yield self._piece(index, delta)

    def close(self) -> None:
        """Abort what still runs; does nothing after the end."""
        for index in self._open:
            self._abort(self.sequences[index])
        self._open.clear()

    def _receiver(self, index: int) -> Callable[[Delta], None]:
        def deliver(delta: Delta) -> None:
            self._deliveries.add(self._loop, partial(self._queue.put_nowait, (index, delta)))

        return deliver

    def _piece(self, index: int, delta: Delta) -> Piece:
        if delta.error is not None:
            self._open.discard(index)
            raise _fresh(delta.error)
        if delta.finish_reason is FinishReason.ABORT:
            self._open.discard(index)
            raise Unavailable("the server is stopping; send the request again")
        stream = self._texts[index]
        text, is_stopped = "", False
        if delta.token_id is not None:
            self.answer_lengths[index] += 1
            text, is_stopped = stream.push(delta.token_id)
        reason = delta.finish_reason
        if is_stopped:
            self._abort(self.sequences[index])
            reason = FinishReason.STOP
        elif reason is not None:
            rest, met_stop = stream.flush()
            text += rest
            reason = FinishReason.STOP if met_stop else reason
        if reason is not None:
            self._open.discard(index)
        return Piece(index, text, reason, delta.token_id, delta.logprobs, delta.end_id)


def _fresh(error: HotswapError) -> HotswapError:
    """A copy to raise here: one failed fetch may end several requests."""
    return type(error)(error.message, **error.fields)

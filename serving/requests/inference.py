"""What the HTTP API asks of serving: resolve a name, start an answer. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from hotswap.registry.domain.errors import InvalidPrompt, InvalidRequest
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.engine import Engine
from hotswap.serving.engine.sequence import SamplingParams
from hotswap.serving.errors import ContextLengthExceeded
from hotswap.serving.rendering import render
from hotswap.serving.requests.deliveries import Deliveries
from hotswap.serving.requests.generation import Generation
from hotswap.serving.requests.request_log import RequestLog
from hotswap.serving.requests.resolver import Resolver, Target
from hotswap.serving.requests.schemas import ChatRequest, CompletionRequest, SamplingFields
from hotswap.serving.requests.token_text import TokenText


@dataclass(frozen=True)
class Inference:
    """The parts a request passes through, in order: resolver, tokenizer, cache, engine."""

    base: BaseDirectory
    resolver: Resolver
    engine: Engine[Any]
    deliveries: Deliveries
    max_model_len: int
    default_max_tokens: int
    request_log: RequestLog | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        return self.base.tokenizer

    @cached_property
    def words(self) -> TokenText:
        return TokenText(self.tokenizer)

    @cached_property
    def max_prompt_bytes(self) -> int:
        """No text of more UTF-8 bytes has a prompt that fits the context."""
        longest = max(len(token.encode()) for token in self.tokenizer.get_vocab())
        return self.max_model_len * longest

    def chat_ids(self, target: Target, request: ChatRequest) -> list[list[int]]:
        """The one prompt, rendered and tokenized: to be called from a thread, for it takes as long
        as the messages are. Raises InvalidPrompt or ContextLengthExceeded."""
        messages = [message.for_template() for message in request.messages]
        self._check_bytes("messages", *(message["content"] for message in messages))
        try:
            text = render(target.prompt, messages)
        except InvalidPrompt as error:
            name = target.model or self.resolver.servable.base_name
            raise InvalidPrompt(f"{name}: {error.message}", **error.fields) from error
        prompt_ids = self._encode("messages", text)
        self._check_ids("messages", prompt_ids)
        return [prompt_ids]

    def completion_ids(self, request: CompletionRequest) -> list[list[int]]:
        """Each prompt as it is, without a template, tokenized if it is a text. As `chat_ids`."""
        encoded = [
            self._encode("prompt", prompt) if isinstance(prompt, str) else prompt
            for prompt in request.prompts
        ]
        self._check_ids("prompt", (token_id for prompt in encoded for token_id in prompt))
        return encoded

    def _encode(self, param: str, text: str) -> list[int]:
        self._check_bytes(param, text)
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _check_bytes(self, param: str, *texts: str) -> None:
        num_bytes = sum(
            len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
            for text in texts
        )
        if num_bytes > self.max_prompt_bytes:
            raise ContextLengthExceeded(
                f"{param} has {num_bytes} bytes; the context holds {self.max_model_len} tokens, "
                f"which is at most {self.max_prompt_bytes} bytes; shorten the prompt",
                param=param,
            )

    def _check_ids(self, param: str, token_ids: Iterable[int]) -> None:
        num_words = self.base.num_words
        for token_id in token_ids:
            if not 0 <= token_id < num_words:
                raise InvalidPrompt(
                    f"{param}: token id {token_id} is not in the vocabulary (0 to {num_words - 1})",
                    param=param,
                )

    def start(
        self, target: Target, request: SamplingFields, prompts: list[list[int]]
    ) -> list[Generation]:
        """One Generation a prompt; submits the sequences of all, or of none. To be called on the
        event loop that reads them. Raises InvalidPrompt, ContextLengthExceeded or ServerBusy."""
        generations = [self._generation(target, request, prompt_ids) for prompt_ids in prompts]
        self.engine.submit(*(sequence for each in generations for sequence in each.sequences))
        return generations

    def _generation(
        self, target: Target, request: SamplingFields, prompt_ids: list[int]
    ) -> Generation:
        params = self._sampling(request, len(prompt_ids))
        seeds = [None if request.seed is None else request.seed + i for i in range(request.n)]
        return Generation(
            self.tokenizer,
            prompt_ids=prompt_ids,
            adapters=target.adapters,
            samplings=[replace(params, seed=seed) for seed in seeds],
            stop_strings=request.stop_strings,
            abort=self.engine.abort,
            deliveries=self.deliveries,
        )

    def _sampling(self, request: SamplingFields, num_prompt: int) -> SamplingParams:
        """But for the seed. Raises InvalidPrompt or ContextLengthExceeded."""
        stop_ids, bias = request.stop_token_ids or [], request.logit_bias or {}
        self._check_ids("stop_token_ids", stop_ids)
        self._check_ids("logit_bias", bias)
        max_tokens = self._max_tokens(num_prompt, request.max_new_tokens)
        if request.min_tokens > max_tokens:
            raise InvalidRequest(
                f"min_tokens is {request.min_tokens}, but the answer may have {max_tokens} tokens; "
                "lower min_tokens or raise max_tokens",
                param="min_tokens",
            )
        ends = frozenset() if request.ignore_eos else self.base.stop_token_ids
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=max(request.top_k, 0),
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            logit_bias=bias,
            max_tokens=max_tokens,
            min_tokens=request.min_tokens,
            stop_token_ids=ends.union(stop_ids),
            logprobs=request.num_logprobs,
            prompt_logprobs=request.num_prompt_logprobs,
        )

    def _max_tokens(self, num_prompt: int, asked: int | None) -> int:
        room = self.max_model_len - num_prompt
        if num_prompt == 0:
            raise InvalidPrompt("the prompt is empty; give at least one token")
        if room < 1 or (asked is not None and asked > room):
            wanted = f" and {asked} new ones were asked for" if asked is not None else ""
            raise ContextLengthExceeded(
                f"the context holds {self.max_model_len} tokens, but the prompt has {num_prompt}"
                f"{wanted}; shorten the prompt or lower max_tokens"
            )
        return min(room, asked or self.default_max_tokens)

"""What the HTTP API asks of serving: resolve a name, start an answer. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from registry.digests import Digest
from registry.errors import ContextLengthExceeded, InvalidPrompt
from serving.base_model import BaseDirectory
from serving.engine import Engine
from serving.generation import Generation
from serving.resolver import Resolver, Target
from serving.schemas import ChatRequest, CompletionRequest, SamplingFields
from serving.sequence import SamplingParams


@dataclass(frozen=True)
class Inference:
    """The parts a request passes through, in order: resolver, tokenizer, cache, engine."""

    base: BaseDirectory
    resolver: Resolver
    engine: Engine[Any]
    prefetch: Callable[[Digest], None]
    max_model_len: int
    default_max_tokens: int

    @property
    def tokenizer(self) -> Tokenizer:
        return self.base.tokenizer

    def start_chat(self, target: Target, request: ChatRequest) -> Generation:
        """Raises InvalidPrompt, ContextLengthExceeded or ServerBusy."""
        text = target.prompt.render([message.for_template() for message in request.messages])
        return self._start(target, request, self._encode(text), request.max_new_tokens)

    def start_completion(self, target: Target, request: CompletionRequest) -> list[Generation]:
        """One Generation a prompt; the prompt goes to the model as it is, without a template."""
        prompts = request.prompt if isinstance(request.prompt, list) else [request.prompt]
        if prompts and isinstance(prompts[0], int):
            encoded = [[int(token_id) for token_id in prompts]]
        else:
            encoded = [self._encode(str(prompt)) for prompt in prompts]
        self._check_ids(encoded)
        started: list[Generation] = []
        try:
            for prompt_ids in encoded:
                started.append(self._start(target, request, prompt_ids, request.max_new_tokens))
        except Exception:
            for generation in started:
                generation.close()
            raise
        return started

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _check_ids(self, prompts: list[list[int]]) -> None:
        num_words = self.tokenizer.get_vocab_size()
        for token_id in (token_id for prompt in prompts for token_id in prompt):
            if not 0 <= token_id < num_words:
                raise InvalidPrompt(
                    f"token id {token_id} is not in the vocabulary (0 to {num_words - 1})",
                    param="prompt",
                )

    def _start(
        self,
        target: Target,
        request: SamplingFields,
        prompt_ids: list[int],
        max_new_tokens: int | None,
    ) -> Generation:
        max_tokens = self._max_tokens(len(prompt_ids), max_new_tokens)
        stop_ids = frozenset(request.stop_token_ids or ()) | self.base.stop_token_ids
        generation = Generation(
            self.tokenizer,
            prompt_ids=prompt_ids,
            adapter=target.adapter,
            samplings=[
                SamplingParams(
                    temperature=request.temperature,
                    top_p=request.top_p,
                    top_k=max(request.top_k, 0),
                    seed=None if request.seed is None else request.seed + index,
                    max_tokens=max_tokens,
                    stop_token_ids=stop_ids,
                    ignore_eos=request.ignore_eos,
                )
                for index in range(request.n)
            ],
            stop_strings=request.stop_strings,
            abort=self.engine.abort,
        )
        if target.adapter is not None:
            self.prefetch(target.adapter)
        try:
            for sequence in generation.sequences:
                self.engine.submit(sequence)
        except Exception:
            generation.close()
            raise
        return generation

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

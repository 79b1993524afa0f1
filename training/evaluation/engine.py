"""Asks questions of a fresh serving engine: what is measured is what will be served.

Requests take the server's own path (registry, resolver, prompt format, scheduler, quantized base).
Knows requests and answers, not which answers are right.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.peft_config import WEIGHTS_FILE
from hotswap.registry.bundles.transfer import fetch_files, push
from hotswap.registry.connect import open_registry
from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.prompts import Message, PromptFormat
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.settings import Home, RegistrySettings
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from hotswap.serving.requests.resolver import Target
from hotswap.serving.requests.schemas import ChatRequest, CompletionRequest
from hotswap.serving.settings import ServingSettings
from hotswap.training.data.tokens import Row

_AskedT = TypeVar("_AskedT")
_ResultT = TypeVar("_ResultT")
_NAME = "evaluated/adapter"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got. The end token is neither in `text` nor counted; `finish_reason` is
    "stop" when it came and "length" when the answer was cut off."""

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_output_tokens: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What the model thinks of a row's own answers, each token given all that stand before it.

    `logprob` is Σ ln p(token) over the `num_tokens` supervised tokens, end tokens included, of
    which `num_correct` are the likeliest at their place.
    """

    logprob: float
    num_tokens: int
    num_correct: int


@contextmanager
def fresh_engine(
    base: BaseDirectory, settings: ServingSettings | None = None
) -> Iterator[FreshEngine]:
    """A started engine on `base` over an empty registry, both gone at the end.

    `settings` say how the base is served (quantization, kernels, seats); their base and trust are
    not used. Raises what loading the base for serving raises.
    """
    chosen = settings or ServingSettings.model_validate({})
    served = chosen.model_copy(update={"trust": None})
    num_threads = torch.get_num_threads()  # an engine takes the process's threads for itself
    with tempfile.TemporaryDirectory(prefix="hotswap-evaluation-") as work:
        home = Home(Path(work))
        try:
            with open_registry(RegistrySettings(), home) as registry:
                serving = Serving(served, registry, home, base=base)
                serving.start()
                try:
                    yield FreshEngine(serving, registry, Path(work), chosen.max_num_seqs)
                finally:
                    serving.stop()
        finally:
            torch.set_num_threads(num_threads)


class FreshEngine:
    """A serving engine of its own. Invariant: adapters reach it through its registry only, so their
    files, base, template and probes are checked as they are when they are served."""

    def __init__(
        self, serving: Serving, registry: AdapterRegistry, work: Path, max_num_seqs: int
    ) -> None:
        self.serving = serving
        self._registry = registry
        self._work = work
        self._max_num_seqs = max_num_seqs

    @property
    def max_model_len(self) -> int:
        """Tokens of the context: a prompt and its answer together."""
        return self.serving.inference.max_model_len

    @property
    def quantization(self) -> str:
        """How the base's weights are kept."""
        return str(self.serving.health()["quantization"])

    def base(self, prompt: PromptFormat | None = None) -> Target:
        """The base alone, asked in its own prompt format or in another, such as an adapter's."""
        return Target(prompt or self.serving.base.prompt_format())

    def load(self, directory: Path) -> Target:
        """A PEFT directory; raises what reading, pushing and resolving it raises."""
        bundle = Bundle.read(directory)
        known = bundle.metadata.base or self.serving.base.fingerprint()
        return self._push(bundle, bundle.manifest(base=known))

    def load_version(self, registry: AdapterRegistry, ref: AdapterRef) -> Target:
        """The version that `ref` means now in `registry`, with the same digest here."""
        version = registry.versions.resolve(ref)
        manifest = registry.versions.manifest(version.manifest_digest)
        directory = self._work / "pulled" / version.manifest_digest.hex
        if not directory.exists():
            fetch_files(registry, manifest, directory)
        return self._push(Bundle.read(directory), manifest)

    def weights_digest(self, target: Target) -> Digest | None:
        """Of the first adapter's weights file; it names the weights whatever a version states of
        them. None for the base."""
        if not target.adapters:
            return None
        return self._registry.versions.manifest(target.adapters[0][0]).file(WEIGHTS_FILE).digest

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        target: Target,
        *,
        max_tokens: int,
        concurrency: int | None = None,
    ) -> list[Answer]:
        """The greedy answer to each conversation, in order.

        `concurrency` requests run at a time (None: as many as the engine has seats); with 1 a
        latency is what a lone user waits for. Raises ContextLengthExceeded, InvalidPrompt, or
        what the adapter cannot be served for.
        """

        async def ask(conversation: Sequence[Message]) -> Answer:
            return await self._answer(conversation, target, max_tokens)

        return asyncio.run(_in_turns(ask, conversations, concurrency or self._max_num_seqs))

    def likelihoods(self, rows: Sequence[Row], target: Target) -> list[Likelihood]:
        """How likely each row's answers are, in order, read from one pass over the row: the log
        probabilities of an echoed prompt. Raises what `answers` does."""

        async def ask(row: Row) -> Likelihood:
            return await self._likelihood(row, target)

        return asyncio.run(_in_turns(ask, rows, self._max_num_seqs))

    async def _answer(
        self, conversation: Sequence[Message], target: Target, max_tokens: int
    ) -> Answer:
        started = time.perf_counter()
        request = ChatRequest.model_validate(
            {
                "model": target.model or self.serving.base.model_id,
                "messages": conversation,
                "temperature": 0,
                "max_tokens": max_tokens,
            }
        )
        inference = self.serving.inference
        (generation,) = inference.start(target, request, inference.chat_ids(target, request))
        text, reason = "", ""
        try:
            async for piece in generation.pieces():
                text += piece.text
                reason = piece.finish_reason or reason
        finally:
            generation.close()
        return Answer(
            text=text,
            finish_reason=str(reason),
            num_prompt_tokens=len(generation.prompt_ids),
            num_output_tokens=generation.num_output_tokens,
            latency_s=time.perf_counter() - started,
        )

    async def _likelihood(self, row: Row, target: Target) -> Likelihood:
        request = CompletionRequest.model_validate(
            {
                "model": target.model or self.serving.base.model_id,
                "prompt": list(row.ids),
                "temperature": 0,
                "max_tokens": 1,
                "echo": True,
                "logprobs": 1,
            }
        )
        inference = self.serving.inference
        (generation,) = inference.start(target, request, inference.completion_ids(request))
        try:
            async for _ in generation.pieces():
                pass
        finally:
            generation.close()
        logprobs = generation.sequences[0].prompt_logprobs  # [i] is of token i + 1
        answered = [i for i, is_answer in enumerate(row.supervised) if is_answer]
        return Likelihood(
            logprob=sum(logprobs[i - 1].chosen for i in answered),
            num_tokens=len(answered),
            num_correct=sum(logprobs[i - 1].top[0][0] == row.ids[i] for i in answered),
        )

    def _push(self, bundle: Bundle, manifest: Manifest) -> Target:
        version: AdapterVersion = push(
            self._registry, _NAME, bundle, manifest, by="evaluation", allow_no_effect=True
        )
        return self.serving.inference.resolver.resolve(str(version.ref))


async def _in_turns(
    ask: Callable[[_AskedT], Awaitable[_ResultT]], asked: Sequence[_AskedT], at_a_time: int
) -> list[_ResultT]:
    free = asyncio.Semaphore(at_a_time)

    async def take_turn(one: _AskedT) -> _ResultT:
        async with free:
            return await ask(one)

    return await asyncio.gather(*map(take_turn, asked))

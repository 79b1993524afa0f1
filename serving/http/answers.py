"""The answers of the HTTP API, streamed or whole, from the pieces of their generations."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect

from hotswap.registry.domain.errors import HotswapError
from hotswap.serving.requests.generation import Generation, Piece
from hotswap.serving.requests.inference import Inference
from hotswap.serving.requests.logprobs import ChatLogprobs, TextLogprobs, joined
from hotswap.serving.requests.recording import recording_of
from hotswap.serving.requests.resolver import Target
from hotswap.serving.requests.schemas import (
    AppliedAdapter,
    CompletionRequest,
    PromptTokensDetails,
    Provenance,
    SamplingFields,
    Usage,
)

ResultT = TypeVar("ResultT")

CLIENT_CLOSED_REQUEST = 499
"""nginx's status, for logs: the client went away before there was an answer."""


def provenance_of(inference: Inference, target: Target) -> Provenance:
    """What produces the answer: the base and the pinned versions with their scales."""
    adapters = [
        AppliedAdapter(
            version=str(applied.version.ref),
            digest=str(applied.version.manifest_digest),
            scale=applied.scale,
        )
        for applied in target.applied
    ]
    return Provenance(
        base=inference.resolver.servable.base_name,
        version=target.model,
        digest=adapters[0].digest if len(adapters) == 1 else None,
        adapters=adapters,
    )


class _Answer:
    """One HTTP answer from one or more generations, streamed or whole.

    The status is decided by the first piece: until then an error is an HTTP error, afterwards it
    is an `error` event that ends the stream.
    """

    object: str
    chunk_object: str
    id_prefix: str

    def __init__(
        self,
        inference: Inference,
        target: Target,
        body: SamplingFields,
        generations: list[Generation],
    ) -> None:
        self._body = body
        self._generations = generations
        self._words = inference.words
        self._recording = recording_of(inference, target, body)
        self._forms: dict[int, ChatLogprobs | TextLogprobs] = {}
        self._provenance = provenance_of(inference, target)
        self._head = {
            "id": f"{self.id_prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": self._provenance.digest
            or self._provenance.version
            or self._provenance.base,
        }

    def choice(
        self, index: int, text: str, finish_reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        raise NotImplementedError

    def chunk_choice(
        self, piece: Piece, logprobs: dict[str, Any] | None, *, is_first: bool
    ) -> dict[str, Any]:
        raise NotImplementedError

    def make_logprobs(self, index: int) -> ChatLogprobs | TextLogprobs:
        """What turns the log probabilities of choice `index` into the answer's form."""
        raise NotImplementedError

    def preface(self, index: int) -> str:
        """What stands before the text of choice `index`."""
        del index
        return ""

    def preface_logprobs(
        self, index: int, form: ChatLogprobs | TextLogprobs
    ) -> list[dict[str, Any]]:
        """The log probabilities that belong to what stands before the text of choice `index`."""
        del index, form
        return []

    async def respond(self, request: Request) -> Response:
        """The whole answer, or a stream whose first piece is there."""
        pieces = self._pieces()
        try:
            if self._body.stream:
                first = await _unless_left(request, anext(pieces))
                return StreamingResponse(
                    self._events(first, pieces),
                    media_type="text/event-stream",
                    headers=self._headers(),
                )
            choices = await _unless_left(request, self._read_all(pieces))
            return JSONResponse(self._whole(choices), headers=self._headers())
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody reads it
        except BaseException:
            self._close()
            raise

    def _whole(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            **self._head,
            "object": self.object,
            "choices": choices,
            "usage": self._usage().model_dump(),
            "hotswap": self._provenance.model_dump(),
        }

    async def _read_all(self, pieces: AsyncIterator[Piece]) -> list[dict[str, Any]]:
        texts: dict[int, str] = {}
        reasons: dict[int, str | None] = {}
        logprobs: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        async for piece in pieces:
            texts[piece.index] = texts.get(piece.index, "") + piece.text
            reasons[piece.index] = piece.finish_reason
            if entries := self._logprobs_of(piece):
                logprobs[piece.index].append(entries)
        return [
            self.choice(
                index,
                self.preface(index) + texts[index],
                reasons[index],
                joined(logprobs[index]),
            )
            for index in sorted(texts)
        ]

    def _logprobs_of(self, piece: Piece) -> dict[str, Any] | None:
        if self._body.num_logprobs is None:
            return None
        parts: list[dict[str, Any]] = []
        if piece.index not in self._forms:
            self._forms[piece.index] = form = self.make_logprobs(piece.index)
            parts += self.preface_logprobs(piece.index, form)
        token_id = piece.end_id if piece.token_id is None else piece.token_id
        if token_id is not None and piece.logprobs is not None:
            parts.append(self._forms[piece.index].of(token_id, piece.logprobs))
        return joined(parts)

    async def _pieces(self) -> AsyncIterator[Piece]:
        """Pieces of all generations, numbered through: prompt 0's n choices, prompt 1's, …"""
        try:
            for number, generation in enumerate(self._generations):
                async for piece in generation.pieces():
                    piece = replace(piece, index=number * self._body.n + piece.index)
                    self._recording.add(piece)
                    yield piece
            self._recording.finish(self._generations)
        finally:
            self._close()

    async def _events(self, first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[str]:
        seen: set[int] = set()
        try:
            yield self._event(self._chunk(first, seen))
            async for piece in rest:
                if piece.text or piece.finish_reason or piece.logprobs:
                    yield self._event(self._chunk(piece, seen))
            if self._tells_usage:
                yield self._event({"choices": [], "usage": self._usage().model_dump()})
            yield "data: [DONE]\n\n"
        except HotswapError as error:
            yield f"data: {json.dumps(error.body())}\n\n"
        finally:
            self._close()

    def _chunk(self, piece: Piece, seen: set[int]) -> dict[str, Any]:
        is_first = piece.index not in seen
        seen.add(piece.index)
        logprobs = self._logprobs_of(piece)
        if is_first:
            piece = replace(piece, text=self.preface(piece.index) + piece.text)
        usage = {"usage": None} if self._tells_usage else {}
        return {"choices": [self.chunk_choice(piece, logprobs, is_first=is_first)], **usage}

    @property
    def _tells_usage(self) -> bool:
        options = self._body.stream_options
        return options is not None and options.include_usage

    def _event(self, content: dict[str, Any]) -> str:
        body = {
            **self._head,
            "object": self.chunk_object,
            **content,
            "hotswap": self._provenance.model_dump(),
        }
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"

    def _usage(self) -> Usage:
        num_prompt = sum(len(g.prompt_ids) for g in self._generations)
        num_output = sum(g.num_output_tokens for g in self._generations)
        num_cached = sum(min(s.num_cached for s in g.sequences) for g in self._generations)
        return Usage(
            prompt_tokens=num_prompt,
            completion_tokens=num_output,
            total_tokens=num_prompt + num_output,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=num_cached),
        )

    def _headers(self) -> dict[str, str]:
        headers = {"x-hotswap-base": self._provenance.base}
        if self._provenance.version:
            headers["x-hotswap-version"] = self._provenance.version
            digests = [adapter.digest for adapter in self._provenance.adapters]
            headers["x-hotswap-digest"] = ", ".join(digests)
        return headers

    def _close(self) -> None:
        for generation in self._generations:
            generation.close()


class ChatAnswer(_Answer):
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def choice(
        self, index: int, text: str, finish_reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "finish_reason": finish_reason,
            "logprobs": logprobs,
        }

    def chunk_choice(
        self, piece: Piece, logprobs: dict[str, Any] | None, *, is_first: bool
    ) -> dict[str, Any]:
        delta: dict[str, str] = {"role": "assistant"} if is_first else {}
        if piece.text or is_first:
            delta["content"] = piece.text
        return {
            "index": piece.index,
            "delta": delta,
            "finish_reason": piece.finish_reason,
            "logprobs": logprobs,
        }

    def make_logprobs(self, index: int) -> ChatLogprobs:
        del index
        return ChatLogprobs(self._words)


class TextAnswer(_Answer):
    object = "text_completion"
    chunk_object = "text_completion"
    id_prefix = "cmpl"

    def __init__(
        self,
        inference: Inference,
        target: Target,
        body: CompletionRequest,
        generations: list[Generation],
    ) -> None:
        super().__init__(inference, target, body, generations)
        decode = inference.tokenizer.decode
        self._echoed = [
            prompt if isinstance(prompt, str) else decode(prompt, skip_special_tokens=False)
            for prompt in (body.prompts if body.echo else [])
        ]

    def choice(
        self, index: int, text: str, finish_reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": logprobs}

    def chunk_choice(
        self, piece: Piece, logprobs: dict[str, Any] | None, *, is_first: bool
    ) -> dict[str, Any]:
        del is_first
        return self.choice(piece.index, piece.text, piece.finish_reason, logprobs)

    def make_logprobs(self, index: int) -> TextLogprobs:
        del index
        return TextLogprobs(self._words)

    def preface(self, index: int) -> str:
        return self._echoed[index // self._body.n] if self._echoed else ""

    def preface_logprobs(
        self, index: int, form: ChatLogprobs | TextLogprobs
    ) -> list[dict[str, Any]]:
        if not self._echoed or not isinstance(form, TextLogprobs):
            return []
        number, choice = divmod(index, self._body.n)
        sequence = self._generations[number].sequences[choice]
        return [form.of_prompt(sequence.prompt_ids, sequence.prompt_logprobs)]


async def _unless_left(request: Request, waiting: Awaitable[ResultT]) -> ResultT:
    """What `waiting` gives. It is cancelled, and ClientDisconnect raised, when the client goes away
    first."""
    result = asyncio.ensure_future(waiting)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({result, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        raise ClientDisconnect
    finally:
        for task in (result, leaving):
            task.cancel()
        await asyncio.wait({result, leaving})


async def _disconnected(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        continue

"""What one request asked and was answered, gathered for the request log piece by piece."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from hotswap.registry.access.audit import request_id
from hotswap.serving.requests.generation import Generation, Piece
from hotswap.serving.requests.inference import Inference
from hotswap.serving.requests.request_log import RequestLog
from hotswap.serving.requests.resolver import Target
from hotswap.serving.requests.schemas import ChatRequest, CompletionRequest, SamplingFields


class NoRecording:
    """Of a request that is not logged."""

    def add(self, piece: Piece) -> None: ...

    def finish(self, generations: Sequence[Generation]) -> None: ...


class Recording(NoRecording):
    """Logs when it is finished; a request that fails or is given up is never finished."""

    def __init__(
        self, log: RequestLog, inference: Inference, target: Target, body: SamplingFields, name: str
    ) -> None:
        self._log = log
        self._decode = inference.tokenizer.decode
        self._target = target
        self._body = body
        self._id = name
        self._at = datetime.now(UTC)
        self._name = _names(inference, target)[0]
        self._texts: dict[int, list[str]] = {}
        self._reasons: dict[int, str] = {}

    def add(self, piece: Piece) -> None:
        """A piece of the answer whose number counts through all prompts."""
        self._texts.setdefault(piece.index, []).append(piece.text)
        if piece.finish_reason is not None:
            self._reasons[piece.index] = piece.finish_reason.value

    def finish(self, generations: Sequence[Generation]) -> None:
        counts = [(len(g.prompt_ids), num) for g in generations for num in g.answer_lengths]
        answers = ["".join(self._texts[index]) for index in sorted(self._texts)]
        num_asked = sum(4 * len(g.prompt_ids) for g in generations)  # characters, about
        self._log.offer(
            self._name,
            lambda: self._rows(answers, counts),
            num_rows=len(answers),
            num_chars=sum(map(len, answers)) + num_asked,
        )

    def _rows(self, answers: list[str], counts: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
        digests = [str(digest) for digest, _ in self._target.adapters]
        for index, (answer, (num_prompt, num_output)) in enumerate(
            zip(answers, counts, strict=True)
        ):
            number, choice = divmod(index, self._body.n)
            yield {
                "time": self._at.isoformat(timespec="milliseconds"),
                "request_id": self._id,
                "adapter": self._name,
                "version": self._target.model,
                "digest": ", ".join(digests) or None,
                **self._asked(number),
                "answer": answer,
                "choice": choice,
                "finish_reason": self._reasons[index],
                "prompt_tokens": num_prompt,
                "completion_tokens": num_output,
            }

    def _asked(self, number: int) -> dict[str, Any]:
        """As the client sent it; token ids as their text."""
        if isinstance(self._body, ChatRequest):
            return {"messages": [m.model_dump(exclude_none=True) for m in self._body.messages]}
        assert isinstance(self._body, CompletionRequest)
        prompt = self._body.prompts[number]
        if not isinstance(prompt, str):
            prompt = self._decode(prompt, skip_special_tokens=False)
        return {"prompt": prompt}


def recording_of(inference: Inference, target: Target, body: SamplingFields) -> NoRecording:
    """A Recording when there is a log that takes this request. `store: false` keeps one out."""
    log, asked_not_to = inference.request_log, getattr(body, "store", None) is False
    name = request_id.get() or uuid.uuid4().hex
    if log is None or asked_not_to or not log.takes(_names(inference, target), name):
        return NoRecording()
    return Recording(log, inference, target, body, name)


def _names(inference: Inference, target: Target) -> list[str]:
    names = [applied.version.name for applied in target.applied]
    return names or [inference.resolver.servable.base_name]

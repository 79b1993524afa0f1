"""Rows of a server's `request_log`: read, chosen, made into training rows.

A log is a file, or a directory with files of any names, older files before newer ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from hotswap.registry.domain.access import covers
from hotswap.registry.domain.prompts import Message
from hotswap.training.data.example import Example, Place
from hotswap.training.data.fixes import without_duplicates
from hotswap.training.data.formats.fields import Fields, conversation
from hotswap.training.data.formats.files import read_examples
from hotswap.training.data.formats.records import records
from hotswap.training.data.personal import personal_data, redacted
from hotswap.training.errors import InvalidData

_SIGNS = ("answer", "finish_reason", "adapter")
_TRUNCATED = "length"
# What templates put around messages: ChatML and Llama 3, Llama 2, Gemma.
_TEMPLATED = re.compile(r"<\|\w{1,40}\|>|\[/?INST\]|<start_of_turn>")
_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


class Answers(StrEnum):
    """What becomes of the served answers: left out, for somebody to write better ones, or taken."""

    EMPTY = "empty"
    SERVED = "served"


class LeftOut(StrEnum):
    """Why a row of a log is not taken."""

    OTHER = "of another adapter"
    EARLIER = "from before --since"
    TRUNCATED = "whose answer was cut off by max_tokens"
    EMPTY = "with an empty answer"
    TEMPLATED = "of /v1/completions whose prompt is a rendered template"
    UNUSABLE = "that end with no message of the user, or have a system message further on"
    DUPLICATE = "that are an earlier row but for case and white space"


@dataclass(frozen=True, slots=True)
class Served:
    """One row: what was asked, oldest message first, and what was answered."""

    place: Place
    at: datetime
    adapter: str
    asked: tuple[Message, ...]
    answer: str
    finish_reason: str
    is_templated: bool

    @classmethod
    def read(cls, row: Fields) -> Served:
        """Raises InvalidData that names the field; fields that are not known are passed over."""
        if "messages" in row.values:
            asked = tuple(_message(item) for item in row.objects("messages"))
            is_templated = False
        else:
            prompt = row.text("prompt")
            asked = ({"role": "user", "content": prompt},)
            is_templated = _TEMPLATED.search(prompt) is not None
        answer, reason = row.text("answer"), row.text("finish_reason")
        return cls(row.place, _time(row), row.text("adapter"), asked, answer, reason, is_templated)

    def example(self, answers: Answers) -> Example:
        """With the earlier answers of the conversation as context: they are not learnt. Raises
        InvalidData for what is no conversation."""
        answer = self.answer if answers is Answers.SERVED else ""
        earlier = (index for index, m in enumerate(self.asked) if m["role"] == "assistant")
        messages: list[Message] = [*self.asked, {"role": "assistant", "content": answer}]
        return conversation(
            self.place, messages, lambda i: f"messages[{i}].role", frozenset(earlier)
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows of a log are taken, and how."""

    adapters: Sequence[str] = ("*",)
    """Patterns of names, in the language of scopes."""
    since: datetime | None = None
    answers: Answers = Answers.EMPTY
    keep_truncated: bool = False
    """Of served answers, also those that max_tokens cut off."""
    redact: bool = False

    def refusal(self, served: Served) -> LeftOut | None:
        if not any(covers(pattern, served.adapter) for pattern in self.adapters):
            return LeftOut.OTHER
        if self.since is not None and served.at < self.since:
            return LeftOut.EARLIER
        if served.is_templated:
            return LeftOut.TEMPLATED
        if self.answers is Answers.SERVED:
            if served.finish_reason == _TRUNCATED and not self.keep_truncated:
                return LeftOut.TRUNCATED
            if not served.answer.strip():
                return LeftOut.EMPTY
        return None


@dataclass(slots=True)
class Collected:
    """The rows that were taken; how many were read, and left out for which reason; in how many
    of those taken there was which kind of personal data before it was redacted."""

    examples: list[Example] = field(default_factory=list)
    num_read: int = 0
    left_out: Counter[LeftOut] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)


def collect(rows: Iterable[Served], choice: Choice) -> Collected:
    """The rows of `choice` in their order, without duplicates."""
    collected = Collected()
    taken: list[Example] = []
    for served in rows:
        collected.num_read += 1
        if (reason := choice.refusal(served)) is not None:
            collected.left_out[reason] += 1
            continue
        try:
            taken.append(served.example(choice.answers))
        except InvalidData:
            collected.left_out[LeftOut.UNUSABLE] += 1
    collected.examples = list(without_duplicates(taken, near=False))
    for example in collected.examples:
        text = "\n".join(message["content"] for message in example.messages)
        collected.personal.update(personal_data(text))
    if choice.redact:
        redacted = [_redacted(example) for example in collected.examples]
        collected.examples = list(without_duplicates(redacted, near=False))
    collected.left_out[LeftOut.DUPLICATE] = len(taken) - len(collected.examples)
    return collected


def iter_served(path: Path) -> Iterator[Served]:
    """The rows of a log; raises InvalidData for what is none, or for a directory without rows."""
    for file in log_files(path):
        for row in records(file):
            if not _is_of_log(row):
                missing = ", ".join(sign for sign in _SIGNS if sign not in row.values)
                row.place.refuse(
                    f"not a row of a request log: it has no {missing}; give what"
                    " `hotswap serve --log-requests` wrote"
                )
            yield Served.read(row)


def requests_in(path: Path) -> list[Example]:
    """What was asked, of a request log or of a row file in any format; of a log every row that ends
    with a message of the user, whatever became of it."""
    first = next((row for file in log_files(path) for row in records(file)), None)
    if first is None or (path.is_file() and not _is_of_log(first)):
        return read_examples(path)
    return [
        Example((*served.asked, {"role": "assistant", "content": served.answer}), served.place)
        for served in iter_served(path)
        if served.asked[-1]["role"] == "user"
    ]


def log_files(path: Path) -> list[Path]:
    """The file itself, or the directory's files: for each directory in it previous before current,
    which is the order of age."""
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob("*.jsonl"), key=_age)
    if not files:
        raise InvalidData(f"{path} has no files *.jsonl; is it the request log's directory?")
    return files


def _age(file: Path) -> tuple[Path, bool, str]:
    return file.parent, file.name != "previous.jsonl", file.name


def _is_of_log(row: Fields) -> bool:
    return all(sign in row.values for sign in _SIGNS)


def _message(item: Fields) -> Message:
    role = item.text("role")
    if role not in _ROLES:
        item.refuse("role", f"expected one of {', '.join(_ROLES)}, found {role!r}")
    if isinstance(item.values.get("content"), list):
        content = "".join(part.text("text") for part in item.objects("content", "parts"))
    else:
        content = item.text("content")
    return {"role": _ROLES[role], "content": content}


def _time(row: Fields) -> datetime:
    text = row.text("time")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        row.refuse("time", f"expected ISO 8601, found {text!r}")
    if at.tzinfo is None:
        row.refuse("time", f"{text!r} names no time zone")
    return at


def _redacted(example: Example) -> Example:
    messages = tuple({**m, "content": redacted(m["content"])} for m in example.messages)
    return replace(example, messages=messages)

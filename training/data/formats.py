"""Reads training rows from JSONL: `{"question", "answer"}` and `{"messages": […]}`. Pure Python.

Knows nothing of tokens. Every error is an InvalidData that names file, line and field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from registry.errors import InvalidData
from registry.prompts import Message

_ROLES = ("system", "user", "assistant")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row came from; prints as `file:line`."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation, answers included. Invariant: it ends with an answer of the assistant, and
    every answer follows a message of the user."""

    messages: tuple[Message, ...]
    place: Place

    @property
    def answers(self) -> tuple[str, ...]:
        return tuple(m["content"] for m in self.messages if m["role"] == "assistant")


def read_examples(path: Path) -> list[Example]:
    """All rows of a file in order; raises InvalidData at the first that cannot be used."""
    return list(iter_examples(path))


def iter_examples(path: Path) -> Iterator[Example]:
    """The rows one by one; blank lines are passed over."""
    for place, text in _lines(path):
        if text.strip():
            yield _example(place, _json_object(place, text))


def _lines(path: Path) -> Iterator[tuple[Place, str]]:
    """The decoded lines; a byte that is not UTF-8 is reported with its position, never guessed."""
    try:
        with path.open("rb") as file:
            offset = len(_BYTE_ORDER_MARK) if file.read(3) == _BYTE_ORDER_MARK else 0
            file.seek(offset)
            for number, raw in enumerate(file, start=1):
                place = Place(path.name, number)
                yield place, _decode(place, raw, offset)
                offset += len(raw)
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}") from error


def _decode(place: Place, raw: bytes, offset: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        position = offset + error.start
        raise InvalidData(
            f"{place}: not UTF-8: byte 0x{raw[error.start]:02x} at byte position {position} of the"
            " file; convert the file to UTF-8",
            file=place.file,
            line=place.line,
            byte_position=position,
        ) from None


def _json_object(place: Place, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidData(f"{place}: not JSON: {error}", file=place.file, line=place.line) from None
    if not isinstance(value, dict):
        raise InvalidData(
            f"{place}: expected a JSON object, found {type(value).__name__}",
            file=place.file,
            line=place.line,
        )
    return value


def _example(place: Place, row: dict[str, Any]) -> Example:
    if "messages" in row:
        _only(place, row, {"messages"})
        return Example(_messages(place, row["messages"]), place)
    if "question" in row or "answer" in row:
        _only(place, row, {"question", "answer"})
        question = _text(place, row, "question")
        answer = _text(place, row, "answer")
        messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        return Example(messages, place)
    found = ", ".join(map(repr, row)) or "none"
    problem = f'expected the fields "question" and "answer", or "messages"; found {found}'
    raise InvalidData(f"{place}: {problem}", file=place.file, line=place.line)


def _messages(place: Place, value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        _refuse(place, "messages", "expected a list of messages that is not empty")
    messages = tuple(_message(place, index, item) for index, item in enumerate(value))
    previous = ""
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "system" and index > 0:
            _refuse(place, f"messages[{index}].role", "a system message may only be the first")
        if role == "assistant" and previous != "user":
            _refuse(place, f"messages[{index}].role", "an answer must follow a user message")
        previous = role
    if previous != "assistant":
        _refuse(
            place,
            f"messages[{len(messages) - 1}].role",
            f"the last message is the {previous}'s; there is no answer to learn",
        )
    return messages


def _message(place: Place, index: int, value: Any) -> Message:
    field = f"messages[{index}]"
    if not isinstance(value, dict):
        _refuse(place, field, f"expected an object, found {type(value).__name__}")
    _only(place, value, {"role", "content"}, f"{field}.")
    role = _text(place, value, "role", f"{field}.")
    if role not in _ROLES:
        _refuse(place, f"{field}.role", f"expected one of {', '.join(_ROLES)}, found {role!r}")
    return {"role": role, "content": _text(place, value, "content", f"{field}.")}


def _text(place: Place, row: dict[str, Any], name: str, prefix: str = "") -> str:
    if name not in row:
        _refuse(place, prefix + name, "the field is missing")
    value = row[name]
    if not isinstance(value, str):
        _refuse(place, prefix + name, f"expected text, found {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        _refuse(place, prefix + name, "holds one half of a surrogate pair, which is no character")
    return value


def _only(place: Place, row: dict[str, Any], allowed: set[str], prefix: str = "") -> None:
    for name in row:
        if name not in allowed:
            known = ", ".join(sorted(allowed))
            _refuse(place, prefix + name, f"unknown field; remove it (known here: {known})")


def _refuse(place: Place, field: str, problem: str) -> NoReturn:
    raise InvalidData(f"{place}: {field}: {problem}", file=place.file, line=place.line, field=field)

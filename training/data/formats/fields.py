"""Typed access to the JSON objects of a row. Every complaint names file, line and field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from hotswap.registry.domain.prompts import Message
from hotswap.training.data.example import Example, Place


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and the path that led to it: `path` is "" for a row, else like
    `messages[1].`. Every method that reads raises InvalidData."""

    place: Place
    values: Mapping[str, Any]
    path: str = ""

    def text(self, name: str) -> str:
        """The text of a field that must be there."""
        if name not in self.values:
            self.refuse(name, "the field is missing")
        value = self.values[name]
        if not isinstance(value, str):
            self.refuse(name, f"expected text, found {type(value).__name__}")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            self.refuse(name, "holds one half of a surrogate pair, which is no character")
        return value

    def text_or_none(self, name: str) -> str | None:
        """The text of a field; None when it is absent, null or empty."""
        if self.values.get(name) is None:
            return None
        return self.text(name) or None

    def object(self, name: str) -> Fields:
        if name not in self.values:
            self.refuse(name, "the field is missing")
        return self._object(name, self.values[name])

    def objects(self, name: str, noun: str = "messages") -> list[Fields]:
        """The objects of a list that is not empty."""
        value = self.values.get(name)
        if not isinstance(value, list) or not value:
            self.refuse(name, f"expected a list of {noun} that is not empty")
        return [self._object(f"{name}[{index}]", item) for index, item in enumerate(value)]

    def only(self, *known: str) -> None:
        """Refuse fields that would be passed over silently."""
        for name in self.values:
            if name not in known:
                names = ", ".join(sorted(known))
                self.refuse(name, f"unknown field; remove it (known here: {names})")

    def refuse(self, name: str, problem: str) -> NoReturn:
        refuse(self.place, self.path + name, problem)

    def _object(self, name: str, value: Any) -> Fields:
        if not isinstance(value, dict):
            self.refuse(name, f"expected an object, found {type(value).__name__}")
        return Fields(self.place, value, f"{self.path}{name}.")


def refuse(place: Place, field: str, problem: str) -> NoReturn:
    place.refuse(f"{field}: {problem}", field=field)


def conversation(
    place: Place,
    messages: Sequence[Message],
    field: Callable[[int], str],
    context: frozenset[int] = frozenset(),
) -> Example:
    """The example with these messages, if they keep its invariant; `field(i)` says where the role
    of message i stands in the row."""
    previous = ""
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "system" and index > 0:
            refuse(place, field(index), "a system message may only be the first")
        if role == "assistant" and previous != "user":
            refuse(place, field(index), "an answer must follow a user message")
        previous = role
    last = len(messages) - 1
    if previous != "assistant":
        problem = f"the last message is the {previous}'s; there is no answer to learn"
        refuse(place, field(last), problem)
    example = Example(tuple(messages), place, context)
    if not example.learnt:
        refuse(place, field(last), "every answer has weight 0; there is no answer to learn")
    return example


def cannot_say(example: Example, what: str, target: str) -> NoReturn:
    """A row that the format to be written has no words for; nothing is dropped silently."""
    example.place.refuse(f"{target} rows cannot say {what}; write messages, or leave this row out")

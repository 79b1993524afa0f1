"""One conversation to learn from, and where it stood. Knows no file format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from hotswap.registry.domain.prompts import Message
from hotswap.training.errors import InvalidData


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row began; prints as `file:line`, with the row's number when lines do not tell
    rows apart (a JSON array may stand on one line)."""

    file: str
    line: int
    item: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + ("" if self.item is None else f" (item {self.item})")

    def refuse(self, problem: str, **details: object) -> NoReturn:
        """Raise InvalidData for the row that stands here."""
        raise InvalidData(f"{self}: {problem}", file=self.file, line=self.line, **details) from None


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation, answers included. Invariant: it ends with an answer of the assistant,
    every answer follows a message of the user, only the first message may be the system's, and
    at least one answer is learnt.

    `context` holds the indices of the messages that are answers but are not learnt (weight 0).
    """

    messages: tuple[Message, ...]
    place: Place
    context: frozenset[int] = frozenset()

    def texts_of(self, role: str) -> tuple[str, ...]:
        return tuple(m["content"] for m in self.messages if m["role"] == role)

    @property
    def answers(self) -> tuple[str, ...]:
        return self.texts_of("assistant")

    @property
    def label(self) -> str:
        """The last answer."""
        return self.messages[-1]["content"]

    @property
    def question(self) -> str:
        """What users say before the last answer."""
        return "\n".join(self.texts_of("user"))

    @property
    def learnt(self) -> tuple[int, ...]:
        """The indices of the answers that are learnt, in order."""
        return tuple(
            index
            for index, message in enumerate(self.messages)
            if message["role"] == "assistant" and index not in self.context
        )

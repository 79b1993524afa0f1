"""The items of a JSON array in a text, one by one, each with the line it begins on.

The standard parser is given a growing window of the text: it is as quick as it can be, and its
window is as large as the largest item, not as the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from hotswap.training.data.example import Place

MAX_ITEM_CHARACTERS = 1 << 24
_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"
_LONGEST_TOKEN = 16  # an error this near to the end of the text may come from the cut there


def array_items(chunks: Iterator[str], file: str) -> Iterator[tuple[Place, Any]]:
    """The text comes in `chunks`; places name the `file`. Raises InvalidData for text that is no
    JSON array, or an item of more than MAX_ITEM_CHARACTERS."""
    window = _Window(chunks, file)
    window.take("[")
    if window.peek() == "]":
        window.take("]")
    else:
        while True:
            yield window.item()
            if window.peek() != ",":
                break
            window.take(",")
        window.take("]")
    if window.peek():
        window.refuse("there is more text behind the array")


class _Window:
    """The text that was read and is not parsed yet: `_text` from `_start`, on line `_line`."""

    def __init__(self, chunks: Iterator[str], file: str) -> None:
        self._file = file
        self._chunks = chunks
        self._text = ""
        self._start = 0
        self._line = 1
        self._num_items = 0

    def peek(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while self._start < len(self._text) or self._grow(1):
            if (character := self._text[self._start]) not in _SPACE:
                return character
            self._pass(self._start + 1)
        return ""

    def take(self, character: str) -> None:
        if (following := self.peek()) != character:
            self.refuse(
                f"expected {character!r}, found {following!r}" if following else "the array ends"
            )
        self._pass(self._start + 1)

    def item(self) -> tuple[Place, Any]:
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._start)
            except json.JSONDecodeError as error:
                # Twice the text before every new try: all tries together cost two of the last.
                if self._may_be_cut(error) and self._grow(len(self._text) - self._start):
                    continue
                self.refuse(f"not JSON: {error.msg}", error.pos)
            self._num_items += 1
            place = Place(self._file, self._line, self._num_items)
            self._pass(end)
            return place, value

    def refuse(self, problem: str, position: int | None = None) -> NoReturn:
        """Raise InvalidData for what stands at `position` of the text, or at its start."""
        line = self._line + self._text.count("\n", self._start, position or self._start)
        Place(self._file, line).refuse(problem)

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        near_the_end = error.pos >= len(self._text) - _LONGEST_TOKEN
        return near_the_end or error.msg.startswith("Unterminated string")

    def _grow(self, num_characters: int) -> bool:
        """Read at least so many more, if the file has them; False at its end."""
        if len(self._text) - self._start > MAX_ITEM_CHARACTERS:
            self.refuse(
                f"an item of more than {MAX_ITEM_CHARACTERS} characters; is a quote or a brace"
                " left open?"
            )
        pieces = [self._text[self._start :]]
        num_read = 0
        while num_read < num_characters and (piece := next(self._chunks, None)) is not None:
            pieces.append(piece)
            num_read += len(piece)
        self._text, self._start = "".join(pieces), 0
        return num_read > 0

    def _pass(self, end: int) -> None:
        self._line += self._text.count("\n", self._start, end)
        self._start = end

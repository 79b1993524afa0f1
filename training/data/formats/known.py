"""The formats there are, and which of them a row is in."""

from __future__ import annotations

from typing import Any, Protocol

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.data.formats.chat import Chat, PromptCompletion
from hotswap.training.data.formats.example import Example
from hotswap.training.data.formats.fields import Fields
from hotswap.training.data.formats.gemini import Gemini
from hotswap.training.data.formats.pairs import Alpaca, QuestionAnswer
from hotswap.training.data.formats.sharegpt import ShareGpt
from hotswap.training.errors import InvalidData


class RowFormat(Protocol):
    """One way to write a conversation as a JSON object. Invariant: `read(write(x))` is x."""

    @property
    def name(self) -> str: ...

    @property
    def signs(self) -> tuple[str, ...]:
        """The fields by any of which a row is known to be in this format."""
        ...

    def read(self, row: Fields) -> Example:
        """Raises InvalidData that names the field."""
        ...

    def write(self, example: Example) -> dict[str, Any]:
        """Raises InvalidData for what the format cannot say."""
        ...


FORMATS: dict[str, RowFormat] = {
    known.name: known
    for known in (Chat(), QuestionAnswer(), PromptCompletion(), Gemini(), Alpaca(), ShareGpt())
}


def format_named(name: str) -> RowFormat:
    if name not in FORMATS:
        raise InvalidRequest(f"there is no row format {name!r}; there is {', '.join(FORMATS)}")
    return FORMATS[name]


def detect(row: Fields) -> RowFormat:
    """The format of a row; raises InvalidData when it has the signs of none."""
    for known in FORMATS.values():
        if any(sign in row.values for sign in known.signs):
            return known
    wanted = "; ".join(" and ".join(map(repr, known.signs)) for known in FORMATS.values())
    found = ", ".join(map(repr, row.values)) or "none"
    raise InvalidData(
        f"{row.place}: expected the fields of a row format ({wanted}), found {found}; choose them"
        " with --columns, as in --columns question=text,answer=category",
        file=row.place.file,
        line=row.place.line,
    )

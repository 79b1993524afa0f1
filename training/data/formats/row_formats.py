"""The formats there are, and which of them a row is in."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.data.example import Example
from hotswap.training.data.formats.chat import Chat, PromptCompletion
from hotswap.training.data.formats.fields import Fields
from hotswap.training.data.formats.gemini import Gemini
from hotswap.training.data.formats.pairs import Alpaca, QuestionAnswer
from hotswap.training.data.formats.sharegpt import ShareGpt


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
    each.name: each
    for each in (Chat(), QuestionAnswer(), PromptCompletion(), Gemini(), Alpaca(), ShareGpt())
}


def format_named(name: str) -> RowFormat:
    if name not in FORMATS:
        raise InvalidRequest(f"there is no row format {name!r}; there is {', '.join(FORMATS)}")
    return FORMATS[name]


def detect(row: Fields) -> RowFormat:
    """The format of a row; raises InvalidData when it has the signs of none."""
    for row_format in FORMATS.values():
        if any(sign in row.values for sign in row_format.signs):
            return row_format
    return _refuse_fields(row)


def _refuse_fields(row: Fields) -> NoReturn:
    wanted = "; ".join(" and ".join(map(repr, each.signs)) for each in FORMATS.values())
    names = ", ".join(map(repr, row.values)) or "none"
    row.place.refuse(
        f"expected the fields of a row format ({wanted}), found {names}; choose them with"
        " --columns, as in --columns question=text,answer=category"
    )

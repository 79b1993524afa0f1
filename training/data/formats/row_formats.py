"""The formats there are, and the examples of records that are all in one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def examples_of(records: Iterable[Fields], row_format: str | None = None) -> Iterator[Example]:
    """The first record says which format all are in, unless `row_format` names it; a record in
    another raises InvalidData."""
    first: Fields | None = None
    chosen = None if row_format is None else format_named(row_format)
    for row in records:
        first = first or row
        chosen = chosen or detect(row)
        if not any(sign in row.values for sign in chosen.signs):
            _refuse_mixture(first, row, chosen)
        yield chosen.read(row)


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


def _refuse_mixture(first: Fields, row: Fields, chosen: RowFormat) -> NoReturn:
    why = "was asked for" if row is first else f"is the format of line {first.place.line}"
    row.place.refuse(
        f"this row is in the format {detect(row).name}, but {chosen.name} {why}; convert one of"
        " them, rows of one file have one format"
    )

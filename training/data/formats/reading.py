"""Reads the examples of a row file in any format, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from hotswap.training.data.formats.example import Example
from hotswap.training.data.formats.fields import Fields
from hotswap.training.data.formats.known import RowFormat, detect, format_named
from hotswap.training.data.formats.records import records
from hotswap.training.errors import InvalidData


def read_examples(
    path: Path, *, columns: Mapping[str, str] | None = None, row_format: str | None = None
) -> list[Example]:
    """All rows of a file in order; raises InvalidData at the first that cannot be used."""
    return list(iter_examples(path, columns=columns, row_format=row_format))


def iter_examples(
    path: Path, *, columns: Mapping[str, str] | None = None, row_format: str | None = None
) -> Iterator[Example]:
    """The rows one by one, holding one at a time; blank lines are passed over.

    The first row says which format the file is in, unless `row_format` names it; a row in another
    is an error. `columns` is for fields with names of their own, see `records`.
    """
    first: Fields | None = None
    chosen: RowFormat | None = None if row_format is None else format_named(row_format)
    for row in records(path, columns):
        first = first or row
        chosen = chosen or detect(row)
        if not any(sign in row.values for sign in chosen.signs):
            _refuse_mixture(first, row, chosen)
        yield chosen.read(row)


def format_of(
    path: Path, *, columns: Mapping[str, str] | None = None, row_format: str | None = None
) -> str:
    """The name of the format that `iter_examples` reads the first row in."""
    if row_format is not None:
        return format_named(row_format).name
    for row in records(path, columns):
        return detect(row).name
    raise InvalidData(f"{path.name} has no rows", file=path.name)


def _refuse_mixture(first: Fields, row: Fields, chosen: RowFormat) -> None:
    found = detect(row).name
    why = "was asked for" if row is first else f"is the format of line {first.place.line}"
    raise InvalidData(
        f"{row.place}: this row is in the format {found}, but {chosen.name} {why}; convert one of"
        " them, rows of one file have one format",
        file=row.place.file,
        line=row.place.line,
    )

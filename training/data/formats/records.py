"""The records of a row file, whatever holds them: JSON lines, one JSON array, or CSV.

What holds them is seen from the first character: `{`, `[`, anything else.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.data.example import Place
from hotswap.training.data.formats.fields import Fields
from hotswap.training.data.formats.json_array import array_items
from hotswap.training.data.formats.text import first_character, lines


def records(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[Fields]:
    """One JSON object a row. `columns` maps the fields wanted to those of the file; the rest of
    the file's fields is then left out, which is an error otherwise."""
    for place, value in _values(path):
        if not isinstance(value, dict):
            place.refuse(f"expected a JSON object, found {type(value).__name__}")
        yield Fields(place, value if columns is None else _chosen(place, value, columns))


def parse_columns(text: str) -> dict[str, str]:
    """`question=text,answer=category` as a mapping; raises InvalidRequest."""
    pairs = [part.partition("=") for part in text.split(",")]
    wanted = {name.strip(): column.strip() for name, _, column in pairs}
    if len(wanted) != len(pairs) or not all(n and c for n, c in wanted.items()):
        raise InvalidRequest(
            f"columns: {text!r} is not a list of pairs (example: 'question=text,answer=category')"
        )
    return wanted


def _values(path: Path) -> Iterator[tuple[Place, Any]]:
    match first_character(path):
        case "[":
            return array_items(path)
        case "{" | "":
            return _json_lines(path)
        case _:
            return _csv_rows(path)


def _json_lines(path: Path) -> Iterator[tuple[Place, Any]]:
    for place, text in lines(path):
        if not text.strip():
            continue
        try:
            yield place, json.loads(text)
        except (ValueError, RecursionError) as error:
            place.refuse(f"not JSON: {error}; write one object a line, or all in one array")


def _csv_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """Rows of a CSV file with a header, as objects whose values are all text."""
    reader = csv.reader((text for _, text in lines(path)), strict=True)
    header: list[str] | None = None
    while True:
        place = Place(path.name, reader.line_num + 1)  # a row may run over several lines
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            place.refuse(f"not CSV: {error}; is a quote left open?")
        if not cells:
            continue
        if header is None:
            header = _header(place, cells)
        elif len(cells) != len(header):
            place.refuse(f"{len(cells)} cells, but the header names {len(header)} columns")
        else:
            yield place, dict(zip(header, cells, strict=True))


def _header(place: Place, cells: list[str]) -> list[str]:
    names = [name.strip() for name in cells]
    for name in names:
        if not name or names.count(name) > 1:
            twice = f"two columns {name!r}"
            place.refuse(f"the header has {twice if name else 'an unnamed column'}")
    return names


def _chosen(
    place: Place, values: Mapping[str, Any], columns: Mapping[str, str]
) -> Mapping[str, Any]:
    for name, column in columns.items():
        if column not in values:
            there_is = ", ".join(map(repr, values))
            problem = f"{column}: no such column for {name!r}; there is {there_is}"
            place.refuse(problem, field=column)
    return {name: values[column] for name, column in columns.items()}

"""The records of a row file, whatever holds them: JSON lines, one JSON array, or CSV.

What holds them is seen from the first character: `{`, `[`, anything else. Files are decoded piece
by piece. A byte that is not UTF-8 is reported, never guessed.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.data.example import Place
from hotswap.training.data.formats.fields import Fields
from hotswap.training.data.formats.json_array import array_items
from hotswap.training.errors import InvalidData

_CHUNK_BYTES = 1 << 16
_BYTE_ORDER_MARK = codecs.BOM_UTF8


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
    match _first_character(path):
        case "[":
            return array_items(_chunks(path), path.name)
        case "{" | "":
            return _json_lines(path)
        case _:
            return _csv_rows(path)


def _json_lines(path: Path) -> Iterator[tuple[Place, Any]]:
    for place, text in _lines(path):
        if not text.strip():
            continue
        try:
            yield place, json.loads(text)
        except (ValueError, RecursionError) as error:
            place.refuse(f"not JSON: {error}; write one object a line, or all in one array")


def _csv_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """Rows of a CSV file with a header, as objects whose values are all text."""
    reader = csv.reader((text for _, text in _lines(path)), strict=True)
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


def _first_character(path: Path) -> str:
    """The first character that is no white space, "" in a file without one."""
    for text in _chunks(path):
        if stripped := text.lstrip():
            return stripped[0]
    return ""


def _lines(path: Path) -> Iterator[tuple[Place, str]]:
    """The lines one by one, ends included, counted from 1."""
    with _opened(path) as (file, offset):
        for number, raw in enumerate(file, start=1):
            place = Place(path.name, number)
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                _not_utf8(place, raw[error.start], offset + error.start)
            yield place, text
            offset += len(raw)


def _chunks(path: Path) -> Iterator[str]:
    """The text in pieces of about _CHUNK_BYTES, however long its lines are."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with _opened(path) as (file, offset):
        while True:
            raw = file.read(_CHUNK_BYTES)
            kept: bytes = decoder.getstate()[0]
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                read = kept + raw
                place = Place(path.name, line + read[: error.start].count(b"\n"))
                _not_utf8(place, read[error.start], offset - len(kept) + error.start)
            if not raw:
                return
            offset += len(raw)
            line += text.count("\n")
            yield text


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file behind its byte order mark, and how many bytes that is."""
    try:
        with path.open("rb") as file:
            marked = file.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK
            offset = len(_BYTE_ORDER_MARK) if marked else 0
            file.seek(offset)
            yield file, offset
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}") from error


def _not_utf8(place: Place, byte: int, position: int) -> NoReturn:
    place.refuse(
        f"not UTF-8: byte 0x{byte:02x} at byte position {position} of the file; convert the file"
        " to UTF-8",
        byte_position=position,
    )

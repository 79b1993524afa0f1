"""Decodes files piece by piece. A byte that is not UTF-8 is reported, never guessed."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from hotswap.training.data.example import Place
from hotswap.training.errors import InvalidData

CHUNK_BYTES = 1 << 16
_BYTE_ORDER_MARK = codecs.BOM_UTF8


def first_character(path: Path) -> str:
    """The first character that is no white space, "" in a file without one."""
    for text in chunks(path):
        if stripped := text.lstrip():
            return stripped[0]
    return ""


def lines(path: Path) -> Iterator[tuple[Place, str]]:
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


def chunks(path: Path) -> Iterator[str]:
    """The text in pieces of about CHUNK_BYTES, however long its lines are."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with _opened(path) as (file, offset):
        while True:
            raw = file.read(CHUNK_BYTES)
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

"""Rows that lie in a file while they are looked at, so that nobody needs to hold them."""

from __future__ import annotations

import json
import os
import tempfile
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self, TypeVar, overload

from hotswap.training.data.example import Example, Place

T = TypeVar("T")

_WINDOW_BYTES = 1 << 20
# Rows of so few characters are held: to read them ten times would take longer than to check them.
_HELD_CHARACTERS = 1 << 22


class LazySequence(Sequence[T]):
    """A subclass says how long it is and what stands `at` an index from 0 on."""

    @abstractmethod
    def at(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self.at(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.at(index % len(self))


class Spool(LazySequence[Example]):
    """Invariant: the rows come back as they were given, in order. Memory: 8 bytes a row, and the
    first 2²² characters while there are no more.

    The file has no name, so it is gone when the process is, however that ends.
    """

    def __init__(self, directory: Path, examples: Iterable[Example]) -> None:
        """Keep all `examples`: in a file in `directory`, which is made when it is not there."""
        directory.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        self._ends = array("Q", [0])
        self._held: list[Example] | None = None
        try:
            self._take(iter(examples))
        except BaseException:
            self._file.close()
            raise

    def _take(self, examples: Iterator[Example]) -> None:
        held: list[Example] = []
        num_characters = 0
        for example in examples:
            held.append(example)
            num_characters += sum(len(message["content"]) for message in example.messages)
            if num_characters > _HELD_CHARACTERS:
                break
        else:
            self._held = held
            return
        for rows in (held, examples):
            for example in rows:
                self._ends.append(self._ends[-1] + self._file.write(_encoded(example)))
            held.clear()
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._ends) - 1 if self._held is None else len(self._held)

    def __iter__(self) -> Iterator[Example]:
        return self._read_all() if self._held is None else iter(self._held)

    def _read_all(self) -> Iterator[Example]:
        window, first = b"", 0
        for index in range(len(self)):
            start, end = self._ends[index], self._ends[index + 1]
            if end > first + len(window):
                window, first = self._read(start, max(end - start, _WINDOW_BYTES)), start
            yield _decoded(window[start - first : end - first])

    def at(self, index: int) -> Example:
        if self._held is not None:
            return self._held[index]
        start, end = self._ends[index], self._ends[index + 1]
        return _decoded(self._read(start, end - start))

    def _read(self, start: int, num_bytes: int) -> bytes:
        return os.pread(self._file.fileno(), num_bytes, start)


def _encoded(example: Example) -> bytes:
    place = example.place
    about = (place.file, place.line, place.item, sorted(example.context), example.messages)
    return json.dumps(about, ensure_ascii=False).encode("utf-8")


def _decoded(raw: bytes) -> Example:
    file, line, item, context, messages = json.loads(raw)
    return Example(tuple(messages), Place(file, line, item), frozenset(context))

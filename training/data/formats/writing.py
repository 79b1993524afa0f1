"""Writes examples to a row file, which appears complete or not at all."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.data.formats.example import Example
from hotswap.training.data.formats.known import format_named

CSV = "csv"
_CSV_ROWS = "question-answer"


def write_examples(
    path: Path, examples: Iterable[Example], target: str, *, mode: int = 0o644
) -> int:
    """Write the rows as JSON lines in the format `target`, or as CSV with the columns question
    and answer; returns their number.

    Raises InvalidData for a row that the format cannot say, and InvalidRequest when there is
    something at `path` already.
    """
    num_rows = 0
    with _appearing(path, mode) as file:
        put = _csv_writer(file) if target == CSV else _line_writer(file, target)
        for example in examples:
            put(example)
            num_rows += 1
    return num_rows


def _line_writer(file: TextIO, target: str) -> Callable[[Example], None]:
    row_format = format_named(target)

    def put(example: Example) -> None:
        file.write(json.dumps(row_format.write(example), ensure_ascii=False) + "\n")

    return put


def _csv_writer(file: TextIO) -> Callable[[Example], None]:
    row_format = format_named(_CSV_ROWS)
    # A lone carriage return needs quotes too, and only QUOTE_ALL gives it some.
    writer = csv.DictWriter(file, row_format.signs, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()

    def put(example: Example) -> None:
        writer.writerow(row_format.write(example))

    return put


@contextmanager
def _appearing(path: Path, mode: int) -> Iterator[TextIO]:
    if path.exists() or path.is_symlink():
        raise InvalidRequest(f"{path} exists already; give another name or remove it")
    number, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    work = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="") as file:
            yield file
        work.chmod(mode)
        work.rename(path)
    finally:
        work.unlink(missing_ok=True)

"""Row files: examples are read one by one in any format, and written in the format asked for.

A file that is written appears whole or not at all.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.durable import new_file
from hotswap.training.data.example import Example
from hotswap.training.data.formats.records import records
from hotswap.training.data.formats.row_formats import detect, examples_of, format_named
from hotswap.training.errors import InvalidData

CSV = "csv"
_CSV_ROWS = "question-answer"


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
    return examples_of(records(path, columns), row_format)


def format_of(
    path: Path, *, columns: Mapping[str, str] | None = None, row_format: str | None = None
) -> str:
    """The name of the format that `iter_examples` reads the first row in."""
    if row_format is not None:
        return format_named(row_format).name
    for row in records(path, columns):
        return detect(row).name
    raise InvalidData(f"{path.name} has no rows", file=path.name)


def write_examples(
    path: Path, examples: Iterable[Example], target: str, *, mode: int = 0o644
) -> int:
    """Write the rows as JSON lines in the format `target`, or as CSV with the columns question
    and answer; returns their number.

    Raises InvalidData for a row that the format cannot say, and InvalidRequest when there is
    something at `path` already.
    """
    try:
        with new_file(path, mode) as part, part.open("w", encoding="utf-8", newline="") as file:
            put = _csv_writer(file) if target == CSV else _line_writer(file, target)
            num_rows = 0
            for example in examples:
                put(example)
                num_rows += 1
    except FileExistsError:
        raise InvalidRequest(f"{path} exists already; give another name or remove it") from None
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

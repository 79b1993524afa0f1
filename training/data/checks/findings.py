"""What was noticed about rows: a finding, and the words that findings are listed in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from hotswap.training.data.example import Place
from hotswap.training.errors import InvalidData

_LISTED = 10


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was noticed; `where` is a place, or the file when it concerns the whole."""

    code: str
    severity: Severity
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.text} [{self.code}]"


class Places:
    """How many rows of one file something was noticed in, and where the first of them are."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[Place] = []

    def add(self, place: Place) -> None:
        self.count += 1
        if len(self._first) < _LISTED:
            self._first.append(place)

    @property
    def first(self) -> Place:
        return self._first[0]

    def __str__(self) -> str:
        listed = ", ".join(str(place.line) for place in self._first)
        return f"line{'s' if self.count > 1 else ''} {listed}{_more(self.count)}"


def warning(code: str, place: Place, text: str) -> Finding:
    return Finding(code, Severity.WARNING, str(place), text)


def error(code: str, place: Place, text: str) -> Finding:
    return Finding(code, Severity.ERROR, str(place), text)


def short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def listed(places: Iterable[Place], count: int) -> str:
    """The first of `count` places, which may be in several files; no more of them are looked at."""
    return ", ".join(map(str, islice(places, _LISTED))) + _more(count)


def refuse(findings: Sequence[Finding]) -> None:
    """Raise InvalidData, listing the first errors, when there is any."""
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if not errors:
        return
    listed = "; ".join(f"{f.where}: {f.text}" for f in errors[:_LISTED])
    more = f"; and {len(errors) - _LISTED} more" if len(errors) > _LISTED else ""
    raise InvalidData(
        f"the data cannot be trained on ({len(errors)} errors): {listed}{more}",
        codes=sorted({finding.code for finding in errors}),
        where=[finding.where for finding in errors],
    )


def _more(count: int) -> str:
    return f" and {count - _LISTED} more" if count > _LISTED else ""

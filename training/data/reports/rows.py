"""The report on row files: what they are like and what was found, for people and for programs."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.data.checks.examples import check_examples
from hotswap.training.data.checks.findings import Finding, Severity
from hotswap.training.data.classes import Share
from hotswap.training.data.example import Example
from hotswap.training.data.reports.statistics import Statistics, describe
from hotswap.training.data.tokens import check_lengths, rendered
from hotswap.training.errors import InvalidData

_LISTED = 5
HELD_BACK = ("validation", "test")
_NUM_CLASSES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class DataReport:
    """Invariant: it holds no row's text but those of frequent answers and what findings quote."""

    files: dict[str, tuple[str, int]]
    """By role (train, validation, test): the file's name and its number of rows."""
    statistics: Statistics
    findings: tuple[Finding, ...]

    @property
    def num_errors(self) -> int:
        return sum(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def num_warnings(self) -> int:
        return len(self.findings) - self.num_errors

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": "hotswap.data-report.v1",
            "files": {
                role: {"file_name": name, "num_rows": num_rows}
                for role, (name, num_rows) in self.files.items()
            },
            "num_errors": self.num_errors,
            "num_warnings": self.num_warnings,
            "counts": dict(Counter(finding.code for finding in self.findings)),
            "findings": [
                {"code": f.code, "severity": f.severity.value, "where": f.where, "text": f.text}
                for f in self.findings
            ],
            "statistics": self.statistics.as_json(),
        }

    def lines(self) -> Iterator[str]:
        """For a terminal: the figures, then the first findings of each kind."""
        for role, (name, num_rows) in self.files.items():
            yield f"{role:<14} {name}, {num_rows} rows"
        yield from _figures(self.statistics)
        for code in dict.fromkeys(finding.code for finding in self.findings):
            alike = [finding for finding in self.findings if finding.code == code]
            yield f"{alike[0].severity}: {len(alike)} × {code}"
            yield from (f"    {finding.where}: {finding.text}" for finding in alike[:_LISTED])
            if len(alike) > _LISTED:
                yield f"    and {len(alike) - _LISTED} more"
        yield f"{self.num_errors} errors, {self.num_warnings} warnings"


def report_on(
    files: Mapping[str, tuple[Path, Sequence[Example]]],
    base: BaseDirectory | None,
    prompt: PromptFormat | None,
    max_length: int,
) -> DataReport:
    """`files` has "train", and may have "validation" and "test". Without a base there are no
    lengths. Raises InvalidData for a training file without rows."""
    path, train = files["train"]
    if not train:
        raise InvalidData(f"{path.name} has no rows", file=path.name)
    findings = check_examples(train, *(files.get(role, (path, ()))[1] for role in HELD_BACK))
    lengths: dict[str, array[int]] = {role: array("I") for role in files}
    if base is not None and prompt is not None:
        for role, (_, examples) in files.items():
            for _, row in rendered(examples, prompt, base):
                if isinstance(row, Finding):
                    findings.append(row)
                else:
                    lengths[role].append(len(row.ids))
                    findings += check_lengths((row,), max_length)
    return DataReport(
        files={role: (path.name, len(examples)) for role, (path, examples) in files.items()},
        statistics=describe(train, lengths["train"], max_length),
        findings=tuple(sorted(findings, key=lambda f: f.severity is not Severity.ERROR)),
    )


def _figures(statistics: Statistics) -> Iterator[str]:
    if statistics.lengths is not None:
        lengths = statistics.lengths
        over = lengths.num_over / statistics.num_rows
        yield (
            f"{'tokens a row':<14} median {lengths.p50}, 95 % at most {lengths.p95}, longest"
            f" {lengths.max}; {over:.1%} over {lengths.max_length}"
        )
    if statistics.classes is not None:
        counts = statistics.classes.counts
        yield f"{'classes':<14} {len(counts)}, balance {statistics.classes.balance:.3f} of 1"
        yield f"{'':<14} {_listed(counts[:_NUM_CLASSES_SHOWN])}"
    else:
        yield f"{'answers':<14} {_listed(statistics.top_answers[:3])}"
        yield f"{'beginnings':<14} {_listed(statistics.top_prefixes[:3])}"
    distinct_1, distinct_2 = statistics.distinct_1, statistics.distinct_2
    yield f"{'diversity':<14} distinct-1 {distinct_1:.3f}, distinct-2 {distinct_2:.3f}"


def _listed(shares: Sequence[Share]) -> str:
    return ", ".join(f"{share.text[:40]!r} {share.share:.1%}" for share in shares)

"""From files to rows: read, split, check, tokenise. Nothing here computes with tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotswap.registry.domain.digests import Digest, hash_file
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.data.checks.examples import check_examples
from hotswap.training.data.checks.findings import Finding, Severity
from hotswap.training.data.example import Example
from hotswap.training.data.fixes import Applied, clean, even_out
from hotswap.training.data.formats.files import read_examples
from hotswap.training.data.formats.records import parse_columns
from hotswap.training.data.splitting import split
from hotswap.training.data.tokens import Row, check_lengths, rendered
from hotswap.training.errors import InvalidData
from hotswap.training.loop.probes import ProbePrompt, probe_prompts
from hotswap.training.methods.layers import find_targets, refuse_wasteful_rank
from hotswap.training.spec import TrainingSpec


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that rows came from, by content."""

    role: str
    file_name: str
    digest: Digest
    num_rows: int

    def provenance(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "file_name": self.file_name,
            "digest": str(self.digest),
            "num_rows": self.num_rows,
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows that are ready to train on, unless `findings` holds an error."""

    prompt: PromptFormat
    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    probes: tuple[ProbePrompt, ...]
    files: tuple[DataFile, ...]
    findings: tuple[Finding, ...]
    fixes: tuple[Applied, ...] = ()


def prepare(spec: TrainingSpec, base: BaseDirectory) -> Prepared:
    """Read, fix and check the data of a spec; raises InvalidData for rows that cannot be read, and
    InvalidSettings for a rank that saves nothing on this base."""
    refuse_wasteful_rank(find_targets(base, spec).layers, spec)
    train, validation, files, cleaned = gather(spec)
    evened, balanced = even_out(train, spec, spec.seed)
    normaliser = spec.normaliser | spec.required_normaliser()
    prompt = base.prompt_format(system_prompt=spec.system_prompt, normaliser=normaliser)
    train_rows, shown, unrendered = _render(evened, prompt, base)
    validation_rows, held, more = _render(validation, prompt, base)
    longest = min(spec.max_length, int(base.config.get("max_position_embeddings", 1 << 30)))
    findings = [
        *check_examples(train, validation),
        *_few_held_back(spec, train, validation),
        *unrendered,
        *more,
        *check_lengths((*train_rows, *validation_rows), longest),
    ]
    return Prepared(
        prompt=prompt,
        train=train_rows,
        validation=validation_rows,
        probes=probe_prompts(held or shown, prompt, base.tokenizer),
        files=files,
        findings=tuple(findings),
        fixes=(*cleaned, *balanced),
    )


def gather(
    spec: TrainingSpec,
) -> tuple[Sequence[Example], Sequence[Example], tuple[DataFile, ...], list[Applied]]:
    """Clean rows to train on and to validate on; not balanced yet, so that a row that balancing
    repeats is neither a finding nor a validation row."""
    columns = None if spec.columns is None else parse_columns(spec.columns)
    given, files = _read("train", spec.data, columns)
    cleaned, applied = clean(given, spec)
    if spec.validation is None:
        parts = split(cleaned, (spec.validation_fraction,), spec.seed)
        return parts[0], parts[1], files, applied
    held, held_files = _read("validation", spec.validation, columns)
    validation, more = clean(held, spec)
    applied += [{**done, "role": "validation"} for done in more]
    return cleaned, validation, files + held_files, applied


def _few_held_back(
    spec: TrainingSpec, train: Sequence[Example], validation: Sequence[Example]
) -> list[Finding]:
    """A warning when like rows, which stay together, left less than half of the share asked for."""
    wanted = spec.validation_fraction * (len(train) + len(validation))
    if spec.validation is not None or wanted < 1 or 2 * len(validation) >= wanted:
        return []
    text = (
        f"{len(validation)} rows are held back of {wanted:.0f} that were asked for, since most rows"
        " are near-duplicates of each other; put what they have in common into the system prompt,"
        " or give a validation file"
    )
    return [Finding("few_held_back", Severity.WARNING, spec.data.name, text)]


def _read(
    role: str, path: Path, columns: Mapping[str, str] | None
) -> tuple[list[Example], tuple[DataFile, ...]]:
    examples = read_examples(path, columns=columns)
    if not examples:
        raise InvalidData(f"{path.name} has no rows", file=path.name)
    return examples, (DataFile(role, path.name, hash_file(path).digest, len(examples)),)


def _render(
    examples: Sequence[Example], prompt: PromptFormat, base: BaseDirectory
) -> tuple[tuple[Row, ...], list[Example], list[Finding]]:
    """The rows, the examples that they are of, and what is told of examples that have none."""
    rows, shown, findings = [], [], []
    for example, row in rendered(examples, prompt, base):
        if isinstance(row, Finding):
            findings.append(row)
        else:
            rows.append(row)
            shown.append(example)
    return tuple(rows), shown, findings

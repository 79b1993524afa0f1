"""One evaluation from top to bottom: read the set, ask everybody, measure, compare."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotswap.registry.domain.digests import Digest, hash_file
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.requests.resolver import Target
from hotswap.training.data.example import Example
from hotswap.training.data.formats.files import read_examples
from hotswap.training.data.tokens import encode, tokenize
from hotswap.training.errors import InvalidData
from hotswap.training.evaluation.answered import AnsweredRow
from hotswap.training.evaluation.engine import FreshEngine
from hotswap.training.evaluation.metrics import Metric
from hotswap.training.evaluation.report import Answerer, EvalReport, make_report, metrics_for

_ROOM = 16
Notify = Callable[[str], None]
"""Takes a line for people: what is asked next, or left out."""


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Rows that are asked, the metrics they are measured by, and how long an answer may be."""

    file_name: str
    digest: Digest
    examples: tuple[Example, ...]
    metrics: tuple[Metric, ...]
    max_tokens: int

    @classmethod
    def read(
        cls,
        path: Path,
        base: BaseDirectory,
        *,
        chosen: Sequence[str] = (),
        max_rows: int | None = None,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> EvalSet:
        """`max_rows` takes a seeded sample; `max_tokens` None is twice the longest reference and
        16 more. Raises InvalidData for rows, InvalidRequest for a metric that is not known here.
        """
        examples = read_examples(path)
        if not examples:
            raise InvalidData(f"{path.name} has no rows", file=path.name)
        if max_rows is not None:
            examples = sampled(examples, max_rows, seed)
        return cls.of(examples, path, base, chosen=chosen, max_tokens=max_tokens)

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        path: Path,
        base: BaseDirectory,
        *,
        chosen: Sequence[str] = (),
        max_tokens: int | None = None,
    ) -> EvalSet:
        """Of rows of the file at `path` that were chosen already; there is at least one."""
        references = [example.answers[-1] for example in examples]
        longest = max(len(encode(reference, base.tokenizer)) for reference in references)
        return cls(
            file_name=path.name,
            digest=hash_file(path).digest,
            examples=tuple(examples),
            metrics=_choose(metrics_for(references), chosen),
            max_tokens=max_tokens or 2 * longest + _ROOM,
        )

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.metrics)

    def about(self) -> dict[str, Any]:
        return {
            "file_name": self.file_name,
            "digest": str(self.digest),
            "num_rows": len(self.examples),
            "max_tokens": self.max_tokens,
        }


def sampled(examples: Sequence[Example], num_rows: int, seed: int) -> list[Example]:
    """So many of the rows by chance, in their order; all when there are no more."""
    if num_rows >= len(examples):
        return list(examples)
    kept = sorted(random.Random(seed).sample(range(len(examples)), num_rows))  # noqa: S311
    return [examples[index] for index in kept]


def ask(
    engine: FreshEngine,
    base: BaseDirectory,
    asked: EvalSet,
    target: Target,
    name: str,
    *,
    concurrency: int | None = None,
) -> Answerer:
    """What `target` answers to every row, `concurrency` at a time as in `FreshEngine.answers`, and
    how likely it finds the row's own answers."""
    conversations = [example.messages[:-1] for example in asked.examples]
    answers = engine.answers(
        conversations, target, max_tokens=asked.max_tokens, concurrency=concurrency
    )
    rows = [tokenize(example, target.prompt, base.tokenizer) for example in asked.examples]
    likelihoods = engine.likelihoods(rows, target)
    answered = [
        AnsweredRow(
            place=example.place,
            question=example.messages[:-1],
            reference=example.answers[-1],
            answer=answer.text,
            is_ended=answer.finish_reason == "stop",
            num_answer_tokens=answer.num_output_tokens,
            num_reference_tokens=len(encode(example.answers[-1], base.tokenizer)),
            num_prompt_tokens=answer.num_prompt_tokens,
            latency_s=answer.latency_s,
            logprob=likelihood.logprob,
            num_supervised=likelihood.num_tokens,
            num_correct=likelihood.num_correct,
        )
        for example, answer, likelihood in zip(asked.examples, answers, likelihoods, strict=True)
    ]
    digest = str(target.adapters[0][0]) if target.adapters else None
    return Answerer(name, digest, tuple(answered))


def evaluate(
    engine: FreshEngine,
    base: BaseDirectory,
    asked: EvalSet,
    evaluated: tuple[str, Target],
    others: Sequence[tuple[str, Target]] = (),
    *,
    seed: int = 0,
    notify: Notify = lambda _: None,
) -> EvalReport:
    """Everybody is asked the same rows, one after the other; `notify` gets a line for each."""
    answerers = []
    for name, target in (evaluated, *others):
        notify(f"asking {name} {len(asked.examples)} questions")
        answerers.append(ask(engine, base, asked, target, name))
    return make_report(answerers[0], answerers[1:], asked.metrics, seed=seed)


def _choose(known: tuple[Metric, ...], chosen: Sequence[str]) -> tuple[Metric, ...]:
    by_name = {metric.name: metric for metric in known}
    for name in chosen:
        if name not in by_name:
            raise InvalidRequest(
                f"metric {name!r} is not known for this set; known: {', '.join(by_name)}",
                param="metrics",
            )
    return tuple(by_name[name] for name in chosen) or known

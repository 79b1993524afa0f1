"""The rungs of a ladder, from the question alone to the adapter, and what asking each gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.requests.resolver import Target
from hotswap.training.data.example import Example
from hotswap.training.evaluation.engine import FreshEngine
from hotswap.training.evaluation.evaluate import EvalSet, Notify, ask
from hotswap.training.evaluation.report import Answerer
from hotswap.training.ladder.pool import Pool
from hotswap.training.ladder.prompting import Context, Prompting

ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class Rung:
    """`name` is for machines, `label` for people; `target` answers."""

    name: str
    label: str
    target: Target
    prompting: Prompting
    k: int = 0
    """Examples that each prompt should show."""


@dataclass(frozen=True, slots=True)
class Climbed:
    """A rung and the answers it got, with the number of examples that each row's prompt showed."""

    rung: Rung
    answerer: Answerer
    shown: tuple[int, ...]

    @property
    def num_trimmed(self) -> int:
        return sum(count < self.rung.k for count in self.shown)


def make_rungs(
    base: Target, adapter: Target | None, pool: Pool, *, k: int, system: str | None
) -> tuple[Rung, ...]:
    """Each rung keeps what the one before it added: the system prompt, then examples too."""
    k = min(k, len(pool.rows))
    first = pool.first(k)
    more = "" if system is None else ", system prompt"
    rungs = [Rung("zero_shot", "zero-shot", base, Prompting())]
    if system is not None:
        rungs.append(Rung("system_prompt", "system prompt", base, Prompting(system)))
    if k:
        rungs += [
            Rung("few_shot", f"{k} examples{more}", base, Prompting(system, lambda _: first), k),
            Rung(
                "retrieved",
                f"{k} retrieved{more}",
                base,
                Prompting(system, lambda row: pool.nearest(row, k), is_nearest_last=True),
                k,
            ),
        ]
    if adapter is not None:
        rungs.append(Rung(ADAPTER, "the adapter", adapter, Prompting()))
    return tuple(rungs)


def climb(
    engine: FreshEngine,
    base: BaseDirectory,
    asked: EvalSet,
    rungs: Sequence[Rung],
    *,
    concurrency: int | None,
    notify: Notify = lambda _: None,
) -> list[Climbed]:
    """Ask every rung the same rows. A rung whose prompts hold no example at all is left out, and
    `notify` gets a line that says so.

    Raises InvalidData, before any asking, for a row that the context does not hold.
    """
    prompts = [_prompts(engine, base, asked, rung) for rung in rungs]
    climbed = []
    for rung, (examples, shown) in zip(rungs, prompts, strict=True):
        if rung.k and not any(shown):
            notify(
                f"{rung.label}: left out, the context of {engine.max_model_len} tokens holds none"
            )
            continue
        notify(f"asking {rung.label} {len(examples)} questions")
        changed = replace(asked, examples=examples)
        answerer = ask(engine, base, changed, rung.target, rung.label, concurrency=concurrency)
        climbed.append(Climbed(rung, answerer, shown))
    return climbed


def _prompts(
    engine: FreshEngine, base: BaseDirectory, asked: EvalSet, rung: Rung
) -> tuple[tuple[Example, ...], tuple[int, ...]]:
    context = Context(rung.target.prompt, base.tokenizer, engine.max_model_len, asked.max_tokens)
    pairs = [rung.prompting.asked(row, context) for row in asked.examples]
    return tuple(example for example, _ in pairs), tuple(count for _, count in pairs)

"""What an adapter is worth on two public sets: base, prompts and adapter on the same rows.

    python -m benchmarks.worth DATA [--tasks banking77 snips] [--epochs 1] [--train-rows N]

DATA has the folders banking77 (train.csv, test.csv; Casanueva et al. 2020, CC BY 4.0: 77 intents)
and snips (train_*_full.json, validate_*.json; Coucke et al. 2018, CC0: an utterance to its intent
and slots as JSON); they are not part of this project. Through the commands: `hotswap train` on all
training rows or a seeded sample, then `hotswap ladder` on a sample of the test rows: the base as it
is, with the answers described, with 8 examples, with the 8 most like the question, and the adapter.
16 requests at a time. Exact match, F1 (of fields for JSON, of words otherwise) and loss, with 95 %
intervals.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.banking77 import SYSTEM_PROMPT, read_rows, write_rows
from benchmarks.machine import cores_in_use, describe_machine
from benchmarks.server import HOTSWAP
from hotswap.registry.settings import read_home
from hotswap.serving.settings import ServingHome
from hotswap.training.runs.run import Run
from tests.training.rows import snips as snips_rows

Rows = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    system: str  # of training and of every rung but the described one
    described: str  # the better system prompt
    f1: str  # which F1 suits its answers
    max_tokens: int  # of an answer: the base alone does not stop
    train: Rows
    test: Rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--train-rows", type=int, help="a sample of so many; all without it")
    parser.add_argument("--rows", type=int, default=300, help="test rows that are asked")
    arguments = parser.parse_args()
    print(f"{describe_machine()}; {cores_in_use():.1f} in use before", flush=True)
    for name in arguments.tasks:
        task = TASKS[name](arguments.data)
        with tempfile.TemporaryDirectory() as directory:
            climb(task, Path(directory), arguments)


def climb(task: Task, home: Path, arguments: argparse.Namespace) -> None:
    (home / "bases").symlink_to(read_home(ServingHome).bases)
    rows = task.train
    if arguments.train_rows is not None:
        rows = random.Random(0).sample(rows, min(arguments.train_rows, len(rows)))
    train = write_rows(rows, home / "train.jsonl")
    test = write_rows(task.test, home / "test.jsonl")
    (home / "described.txt").write_text(task.described)
    _hotswap(
        home, "train", train, "--system-prompt", task.system, "--dedup", "exact",
        "--validation-fraction", "0.05", "--epochs", str(arguments.epochs),
    )  # fmt: skip
    [made] = (home / "runs").iterdir()
    _hotswap(
        home, "ladder", test, "--run", made.name, "--system-prompt-file", home / "described.txt",
        "--max-rows", str(arguments.rows), "--concurrency", "16",
        "--max-tokens", str(task.max_tokens),
    )  # fmt: skip
    found = json.loads((made / "ladder.json").read_text())
    timing = Run.find(home / "runs", made.name).record.timing
    print(f"\n{task.name}: {len(rows)} rows, {arguments.epochs} epochs in {timing.train_s:.0f} s"
          f" ({timing.tokens_per_s:.0f} tokens/s)\n")  # fmt: skip
    print("\n".join(_table(task, found)))
    print(f"\nVerdict: {found['verdict']['text']}\n", flush=True)


def banking77(data: Path) -> Task:
    train, test = (read_rows(data / "banking77" / f"{part}.csv") for part in ("train", "test"))
    classes = ", ".join(sorted({row["answer"] for row in train}))
    described = (
        "A customer writes to a bank. Answer with the name of the message's intent, exactly as it"
        f" stands here and with nothing else. The intents: {classes}."
    )
    return Task("banking77", SYSTEM_PROMPT, described, "f1", 24, train, test)


def snips(data: Path) -> Task:
    train = _utterances(data, "train_*_full.json")
    test = _utterances(data, "validate_*.json")
    answers = [json.loads(row["answer"]) for row in train]
    intents = sorted({answer["intent"] for answer in answers})
    slots = {
        intent: sorted({s for a in answers if a["intent"] == intent for s in a["slots"]})
        for intent in intents
    }
    known = "; ".join(f"{intent}: {', '.join(names)}" for intent, names in slots.items())
    described = (
        'Answer with JSON alone: {"intent": NAME, "slots": {SLOT: TEXT}}. A slot holds the words of'
        f" the request that fill it; leave out slots without words. Intents and slots: {known}."
    )
    system = "Intent and slots as JSON."
    return Task("snips", system, described, "json_f1", 128, train, test)


def _utterances(data: Path, pattern: str) -> Rows:
    return [
        {"question": row.messages[0]["content"], "answer": row.answers[0]}
        for row in snips_rows(data, pattern)
    ]


TASKS = {"banking77": banking77, "snips": snips}


def _table(task: Task, found: dict[str, Any]) -> Iterator[str]:
    columns = ("em", task.f1, "loss")
    yield f"| {found['num_rows']} rows | {' | '.join(columns)} | tokens | latency |"
    yield "|---" * (len(columns) + 3) + "|"
    for rung in found["rungs"]:
        scores = (rung["metrics"][name] for name in columns)
        each = (f"{s['value']:.3f} ({s['low']:.3f}–{s['high']:.3f})" for s in scores)
        tokens = f"{rung['prompt_tokens']:.0f} + {rung['answer_tokens']:.0f}"
        latency = f"{1000 * rung['median_latency_s']:.0f} ms"
        yield f"| {rung['label']} | {' | '.join(each)} | {tokens} | {latency} |"


def _hotswap(home: Path, *arguments: str | Path) -> None:
    environment = {**os.environ, "HOTSWAP_HOME": str(home)}
    subprocess.run([HOTSWAP, *arguments], env=environment, check=True)


if __name__ == "__main__":
    main()

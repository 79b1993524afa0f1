"""An epoch of LoRA training beside TRL and a plain PEFT loop, in one run: tokens/s, memory, loss.

    python -m benchmarks.training DATA [--peers DIRECTORY] [--rows N] [--threads N]

DATA holds banking77's train.csv and test.csv (Casanueva et al. 2020, CC BY 4.0); it is not part of
this project. DIRECTORY has the virtual environments that
`python -m benchmarks.peers.install DIRECTORY peft trl` makes; those that are there take part.

Everyone gets the same rows in the same batches of 16 (rows of like length together), rank 16 on all
linear layers, the same schedule, clipping and loss, and products in the type that our own training
chooses on the machine: bfloat16 where its processor has it. A token is one of a row, prompt and
answer, however it is computed; padding is none. Each trainer has a process of its own: its peak
memory is all of it. Loading and validation are not in the time. Before that everyone measures the
first loss in float32: where it is the same to 3 decimals, so are data and loss.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.banking77 import SYSTEM_PROMPT, read_rows
from benchmarks.machine import cores_in_use, describe_machine
from hotswap.registry.settings import read_home
from hotswap.serving.base_model import BaseDirectory, provide_base
from hotswap.serving.settings import ServingHome
from hotswap.training.batches import batches
from hotswap.training.data.tokens import Row, tokenize
from hotswap.training.loop.optimizer import learning_rate
from hotswap.training.spec import TrainingSpec
from tests.training.rows import examples_of

BASE = "smollm2-135m"
NUM_VALIDATION = 200
SCRIPTS = Path(__file__).parent / "peers"
OURS = "hotswap"
PEERS = {"TRL": ("trl", "trl_training.py"), "PEFT": ("peft", "peft_training.py")}
COLUMNS = (
    "trainer", "tokens/s", "peak memory", "loss before, float32", "before", "after", "seconds",
)  # fmt: skip
LOSSES = ("exact_loss", "first_loss", "last_loss")


def main() -> None:
    arguments = _arguments()
    print(f"{describe_machine()}; {cores_in_use():.1f} in use before", flush=True)
    job = make_job(arguments)
    exact = {
        name: run(command, exact_job(job), arguments.threads)["first_loss"]
        for name, command in _trainers(arguments).items()
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for turn in range(arguments.rounds):
        there = list(_trainers(arguments).items())
        for name, command in there if turn % 2 == 0 else reversed(there):
            one = run(command, job, arguments.threads)
            one["tokens_per_s"] = one["num_tokens"] / one["train_s"]
            one["exact_loss"] = exact[name]
            print(f"{name}: {one['tokens_per_s']:.0f} tokens/s ({one['settings']})", flush=True)
            found.setdefault(name, []).append(one)
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--peers", type=Path, default=read_home(ServingHome).root / "peers")
    parser.add_argument("--rows", type=int, default=480, help="to train on")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, help="for everyone; all cores without it")
    parser.add_argument(
        "--peer-dtype", choices=["bfloat16", "float32"],
        help="of the peers' base; products are as ours in any case, and so is this without it",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="write every single figure to this file")
    return parser.parse_args()


def make_job(arguments: argparse.Namespace) -> dict[str, Any]:
    """See benchmarks.peers.training_protocol; `rows` and `spec` are ours alone."""
    base = provide_base(BASE, read_home(ServingHome).bases)
    spec = TrainingSpec(data=Path("train.csv"), num_epochs=1)
    train = _rows(arguments.data / "train.csv", arguments.rows, base)
    validation = _rows(arguments.data / "test.csv", NUM_VALIDATION, base)
    made = batches(train, spec.batch_size, seed=spec.seed, epoch=0)
    return {
        "base": str(base.path),
        "batches": [[_plain(row) for row in batch] for batch in made],
        "validation": [_plain(row) for row in validation],
        "rows": [_plain(row) for row in train],
        "spec": spec.model_dump(mode="json"),
        "batch_size": spec.batch_size,
        "r": spec.r,
        "lora_alpha": spec.lora_alpha,
        "rates": [learning_rate(spec, step, len(made)) for step in range(1, len(made) + 1)],
        "max_grad_norm": spec.max_grad_norm,
        "dtype": arguments.peer_dtype or spec.dtype,
        "products": spec.dtype,
        "exact": False,
    }


def exact_job(job: dict[str, Any]) -> dict[str, Any]:
    """The same rows in float32, none of them trained on."""
    spec = {**job["spec"], "dtype": "float32", "num_epochs": 0}
    return {
        **job,
        "spec": spec,
        "batches": [],
        "dtype": "float32",
        "products": "float32",
        "exact": True,
    }


def _rows(file: Path, count: int, base: BaseDirectory) -> list[Row]:
    """`count` rows of the file, drawn with seed 0."""
    known = read_rows(file)
    chosen = random.Random(0).sample(known, min(count, len(known)))
    prompt = base.prompt_format(system_prompt=SYSTEM_PROMPT)
    examples = examples_of(chosen, file.name)
    return [tokenize(example, prompt, base.tokenizer) for example in examples]


def _plain(row: Row) -> dict[str, list[int]]:
    labels = [
        token if supervised else -100
        for token, supervised in zip(row.ids, row.supervised, strict=True)
    ]
    return {"ids": list(row.ids), "labels": labels}


def _trainers(arguments: argparse.Namespace) -> dict[str, list[str]]:
    found = {OURS: [sys.executable, str(SCRIPTS / "our_training.py")]}
    for name, (folder, script) in PEERS.items():
        python = arguments.peers / folder / "bin" / "python"
        if python.exists():
            found[name] = [str(python), str(SCRIPTS / script)]
        else:
            print(f"{name} is not in {arguments.peers / folder}; left out", flush=True)
    return found


def run(command: Sequence[str], job: dict[str, Any], threads: int | None) -> Any:
    """A trainer's answer; what it prints is shown when it fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        command, input=json.dumps(job) + "\n", text=True, capture_output=True, env=environment
    )
    if done.returncode:
        sys.exit(f"{command[-1]} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Medians over the rounds, and our rate against the fastest peer's."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    middle = {name: _medians(runs) for name, runs in found.items()}
    for name, values in middle.items():
        losses = " | ".join(f"{values[loss]:.4f}" for loss in LOSSES)
        lines.append(
            f"| {name} | {values['tokens_per_s']:.0f} | {values['peak_bytes'] / 2**20:.0f} MiB |"
            f" {losses} | {values['train_s']:.0f} |"
        )
    rates = [values["tokens_per_s"] for name, values in middle.items() if name != OURS]
    if rates:
        ratio = middle[OURS]["tokens_per_s"] / max(rates)
        lines.append(f"\n{OURS}: {ratio:.2f} × the faster peer's tokens/s")
    return "\n".join(lines)


def _medians(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = [name for name, value in runs[0].items() if not isinstance(value, str)]
    return {name: statistics.median(run[name] for run in runs) for name in names}


if __name__ == "__main__":
    main()

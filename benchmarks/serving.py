"""Throughput of our server over HTTP beside its peers: tokens per second, in one run.

    python -m benchmarks.serving [--peers DIRECTORY] [--json FILE] [--readme]
    python -m benchmarks.serving --report FILE --readme      # from figures measured before

DIRECTORY has the virtual environments that `python -m benchmarks.peers.install DIRECTORY` makes;
the peers that are there take part, llama.cpp's wheel only where its native build is not (or by
--only). Everyone gets the same workload (see benchmarks.workload):
about 73 prompt tokens and 64 new ones a request (the end token ignored), 32 at a time, 16 adapters
of rank 16 on all linear layers of SmolLM2-135M. Each round runs every case on everyone in turn,
with new prompts, every other round in the opposite order; the others' processes are stopped
meanwhile. Figures are medians over the rounds, shares those of the rounds' own ratios.

Our figures are over HTTP with the client on the same cores, and so are those of llama.cpp's native
build, the other peers' from calls within their process. We answer 64 requests a case, peers one
full batch of 32: no ragged end for them. "One request" is four, one after the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import cores_in_use, describe_machine
from benchmarks.peers.peer import PROGRAMS, Peer, PeerFailed, Program, installed, peer
from benchmarks.peers.prepare import gguf_adapters, openvino_base, q4_0_base
from benchmarks.report import OURS, OURS_INT4, draw, table, write_pages
from benchmarks.server import server
from benchmarks.workload import (
    BASE,
    CONCURRENCY,
    LONG_PROMPT_TOKENS,
    NUM_ADAPTERS,
    Case,
    Prompts,
    cases,
    push_adapters,
    random_adapter,
    run_case,
)
from hotswap.registry.settings import read_home
from hotswap.serving.base_model import BaseDirectory, provide_base
from hotswap.serving.settings import ServingHome
from hotswap.training.spec import fast_dtype

Run = Callable[[Case, Sequence[str]], float]
# Nothing is guessed: random adapters repeat themselves, and guesses would be right too often.
OUR_OPTIONS = {
    OURS: ["--num-speculative-tokens", "0"],
    OURS_INT4: ["--num-speculative-tokens", "0", "--quantization", "int4"],
}


@dataclass
class Contender:
    """One engine, its cases and what it was measured at (tokens per second, by case)."""

    cases: list[Case]
    run: Run
    rates: dict[str, list[float]]
    settings: str = ""
    failed: str | None = None

    @classmethod
    def of(cls, run: Run, num_requests: int, settings: str = "") -> Contender:
        found = cases(num_requests)
        return cls(found, run, {case.name: [] for case in found}, settings)

    def measure(self, index: int, prompts: Sequence[str]) -> None:
        """Run a case; one that fails ends the contender's part."""
        case = self.cases[index]
        if self.failed is not None:
            return
        try:
            seconds, rest = 0.0, iter(prompts)
            for turn in case.turns():
                seconds += self.run(turn, list(itertools.islice(rest, len(turn.adapters))))
            self.rates[case.name].append(case.counted_tokens / seconds)
        except PeerFailed as error:
            self.failed = str(error)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or stopped peers would be left behind
    arguments = _arguments()
    report = arguments.report
    figures = json.loads(report.read_text()) if report else measure(arguments)
    print(f"{figures['machine']}\n\n{table(figures)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.readme:
        draw(figures)
        write_pages(figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peers", type=Path, default=read_home(ServingHome).root / "peers")
    parser.add_argument("--only", nargs="*", choices=[*PROGRAMS, "none"], help="which peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=64, help="of a case on our server")
    parser.add_argument("--peer-requests", type=int, default=CONCURRENCY)
    parser.add_argument("--json", type=Path, help="write every single figure to this file")
    parser.add_argument("--report", type=Path, help="measure nothing, read such a file")
    parser.add_argument("--readme", action="store_true", help="write table and plot")
    parser.add_argument("up_options", nargs="*", help="options of `hotswap up`, behind --")
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    in_use = cores_in_use()
    base = provide_base(BASE, read_home(ServingHome).bases)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        work = Path(directory)
        adapters = [
            random_adapter(base, work / f"adapter-{seed}", seed) for seed in range(NUM_ADAPTERS)
        ]
        contenders = {
            name: _start_ours(name, stack, arguments, base, adapters) for name in OUR_OPTIONS
        }
        there = installed(arguments.peers, arguments.only)
        left_out = [name for name in PROGRAMS if name not in there]
        print(f"take part: {', '.join(there)}; left out: {', '.join(left_out)}", flush=True)
        for name in there:
            contenders[name] = _start(name, stack, arguments, base, adapters)
        _run_all(contenders, Prompts(base), arguments.rounds)
        _keep_logs(work, arguments.peers)
    return {
        "machine": describe_machine(),
        "cores_in_use": in_use,
        "rounds": arguments.rounds,
        "settings": {name: found.settings for name, found in contenders.items()},
        "failed": {name: found.failed for name, found in contenders.items() if found.failed},
        "rates": {name: found.rates for name, found in contenders.items() if not found.failed},
    }


def _run_all(contenders: dict[str, Contender], prompts: Prompts, rounds: int) -> None:
    first = next(iter(contenders.values()))
    for index, case in enumerate(first.cases):  # adapters in their places, kernels compiled
        for found in contenders.values():
            if found.failed is None:
                short = replace(found.cases[index], new_tokens=min(4, case.new_tokens))
                try:
                    found.run(short, prompts.draw(len(short.adapters), short.prompt_tokens))
                except PeerFailed as error:
                    found.failed = str(error)
    for turn in range(rounds):
        start = time.perf_counter()
        there = list(enumerate(first.cases))
        for index, case in there if turn % 2 == 0 else reversed(there):
            texts = prompts.draw(len(case.adapters), case.prompt_tokens)
            for found in contenders.values():
                found.measure(index, texts)
        print(f"round {turn + 1}: {time.perf_counter() - start:.0f} s", flush=True)


def _start_ours(
    name: str,
    stack: ExitStack,
    arguments: argparse.Namespace,
    base: BaseDirectory,
    adapters: Sequence[Path],
) -> Contender:
    """A server with its own state; while it is not asked it sleeps."""
    options = [*OUR_OPTIONS[name], *arguments.up_options]
    home = adapters[0].parent / name
    home.mkdir()
    (home / "bases").symlink_to(read_home(ServingHome).bases)
    url = stack.enter_context(server(home, options))
    push_adapters(base, url, adapters)
    settings = " ".join(["hotswap up", *options])
    return Contender.of(lambda c, p: run_case(url, c, p), arguments.requests, settings)


def _start(
    name: str,
    stack: ExitStack,
    arguments: argparse.Namespace,
    base: BaseDirectory,
    adapters: Sequence[Path],
) -> Contender:
    """The peer's one or two processes; a peer that does not start has failed."""
    program = PROGRAMS[name]
    found = Contender.of(_not_there, arguments.peer_requests)
    start = time.perf_counter()
    try:
        job = _job(program, arguments.peers, base, adapters)
        logs = adapters[0].parent
        adapted = stack.enter_context(
            peer(program, arguments.peers, {**job, "lora": True}, logs / f"{program.folder}.log")
        )
        alone = adapted
        if program.alone:
            alone = stack.enter_context(
                peer(
                    program,
                    arguments.peers,
                    {**job, "lora": False},
                    logs / f"{program.folder}-alone.log",
                )
            )
        found.run, found.settings = _choose(adapted, alone), adapted.settings
    except PeerFailed as error:
        found.failed = str(error)
        _keep_logs(adapters[0].parent, arguments.peers)
    print(
        f"{name}: {found.settings or found.failed}, {time.perf_counter() - start:.0f} s", flush=True
    )
    return found


def _job(
    program: Program, peers: Path, base: BaseDirectory, adapters: Sequence[Path]
) -> dict[str, Any]:
    job: dict[str, Any] = {
        "base": str(base.path),
        "adapters": [str(path) for path in adapters],
        "concurrency": CONCURRENCY,
        "max_length": LONG_PROMPT_TOKENS + 256,
        "dtype": fast_dtype(),
    }
    folder = peers / program.folder
    if program.folder.startswith("llama.cpp"):
        job["gguf"] = str(q4_0_base(folder / f"{base.path.name}.Q4_0.gguf"))
        job["gguf_adapters"] = [str(path) for path in gguf_adapters(base, adapters)]
    elif program.folder == "openvino":
        job["openvino"] = str(openvino_base(base, folder, folder / base.path.name))
    return job


def _choose(adapted: Peer, alone: Peer) -> Run:
    def run(case: Case, prompts: Sequence[str]) -> float:
        needs_lora = any(adapter is not None for adapter in case.adapters)
        return (adapted if needs_lora else alone).run(case, prompts)

    return run


def _not_there(case: Case, prompts: Sequence[str]) -> float:
    raise PeerFailed(f"it did not start; {len(prompts)} prompts of {case.name!r} are unanswered")


def _keep_logs(work: Path, peers: Path) -> None:
    """Where a peer that failed can be read."""
    for log in work.glob("*.log"):
        (peers / log.name).write_bytes(log.read_bytes())


if __name__ == "__main__":
    main()

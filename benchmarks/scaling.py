"""How throughput and latency of our server change with the number of adapters, with ranks, with
concurrency, and with the length of prompts.

    python -m benchmarks.scaling [--counts 1 16 256 1000] [--rank 16] [--json FILE] [--draw]
    python -m benchmarks.scaling --report FILE --draw        # from figures measured before

Every point is a number of requests with 64 new tokens each (the end token ignored), 32 at a time
unless concurrency is what changes. Adapters are random, on all linear layers; which one a request
asks for follows Zipf's law with exponent 1 over all that are registered. Before it is measured
every adapter is asked for one token, the popular ones last: so long-running servers stand. A point
is measured `--rounds` times; figures are medians. Nothing is guessed: random adapters repeat
themselves. An adapter of rank 16 takes 10 MB in memory, and 20 MB on disk below the temporary
directory (the store's copy and the server's).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import cores_in_use, describe_machine
from benchmarks.report import draw_series
from benchmarks.server import memory_mb, server_process
from benchmarks.workload import (
    BASE,
    CONCURRENCY,
    NEW_TOKENS,
    PROMPT_TOKENS,
    Prompts,
    Timing,
    ask_all,
    model_name,
    push_adapters,
    random_adapter,
)
from hotswap.registry.settings import read_home
from hotswap.serving.base_model import BaseDirectory, provide_base
from hotswap.serving.settings import ServingHome

SETTLED = 16
RANKS = (4, 8, 16, 32, 64)
CONCURRENCIES = (1, 2, 4, 8, 16, 32)
LENGTHS = (16, 73, 256, 1024)
ADAPTERS = "registered adapters, Zipf(1.0)"
SERIES = {
    ADAPTERS: "adapters",
    "rank of 16 adapters": "rank",
    "concurrent requests": "concurrency",
    "prompt tokens": "prompt tokens",
}


@dataclass(frozen=True)
class Point:
    """One place of a series; `adapters` has the number of each request's adapter."""

    at: int
    adapters: Sequence[int]
    concurrency: int = CONCURRENCY
    prompt_tokens: int = PROMPT_TOKENS

    def run(self, url: str, prompts: Prompts) -> Timing:
        texts = prompts.draw(len(self.adapters), self.prompt_tokens)
        names = [model_name(number) for number in self.adapters]
        return asyncio.run(ask_all(url, names, texts, NEW_TOKENS, self.concurrency))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1000])
    parser.add_argument("--rank", type=int, default=16, help="of the adapters that are counted")
    parser.add_argument("--memory-gb", type=float, default=12, help="for adapters, in the server")
    parser.add_argument("--requests", type=int, default=128, help="of a point")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(SERIES.values()), help="which series")
    parser.add_argument("--json", type=Path, help="write every single figure to this file")
    parser.add_argument("--report", type=Path, help="measure nothing, read such a file")
    parser.add_argument("--draw", action="store_true", help="write the plot")
    arguments = parser.parse_args()
    report = arguments.report
    found = json.loads(report.read_text()) if report else measure(arguments)
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.draw:
        draw_series(found["series"])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    base = provide_base(BASE, read_home(ServingHome).bases)
    in_use = cores_in_use()
    series: dict[str, Any] = {}
    wanted = set(arguments.only or SERIES.values())
    if "adapters" in wanted:
        series[ADAPTERS] = by_adapters(base, arguments)
    if "rank" in wanted:
        series["rank of 16 adapters"] = by_rank(base, arguments)
    if wanted & {"concurrency", "prompt tokens"}:
        series |= by_load(base, arguments, wanted)
    return {"machine": describe_machine(), "cores_in_use": in_use, "series": series}


def by_adapters(base: BaseDirectory, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The popular ones are the first: fewer adapters are the head of more."""
    chance = random.Random(0)
    found = []
    with _served(base, arguments, [arguments.rank] * max(arguments.counts)) as (url, pid):
        points = [
            Point(count, _zipf(chance, count, arguments.requests)) for count in arguments.counts
        ]
        for point in points:  # each is measured before the next has grown the server
            _touch(url, point.at)
            found.append(_figures(url, [point], base, arguments.rounds)[0])
            found[-1]["resident_mb"] = memory_mb(pid)["own"]
    return found


def by_rank(base: BaseDirectory, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    ranks = [rank for rank in RANKS for _ in range(SETTLED)]
    with _served(base, arguments, ranks) as (url, _):
        _touch(url, len(ranks))
        points = [
            Point(rank, [place * SETTLED + i % SETTLED for i in range(arguments.requests)])
            for place, rank in enumerate(RANKS)
        ]
        return _figures(url, points, base, arguments.rounds)


def by_load(
    base: BaseDirectory, arguments: argparse.Namespace, wanted: set[str]
) -> dict[str, list[dict[str, Any]]]:
    found = {}
    with _served(base, arguments, [16] * SETTLED) as (url, _):
        _touch(url, SETTLED)
        mixed = [number % SETTLED for number in range(arguments.requests)]
        if "concurrency" in wanted:
            points = [Point(c, mixed[: max(4, 2 * c)], c) for c in CONCURRENCIES]
            found["concurrent requests"] = _figures(url, points, base, arguments.rounds)
        if "prompt tokens" in wanted:
            points = [Point(n, mixed[:CONCURRENCY], prompt_tokens=n) for n in LENGTHS]
            found["prompt tokens"] = _figures(url, points, base, arguments.rounds)
    return found


@contextmanager
def _served(
    base: BaseDirectory, arguments: argparse.Namespace, ranks: Sequence[int]
) -> Iterator[tuple[str, int]]:
    """The URL and process id of a server that has an adapter of each rank registered."""
    options = ["--num-speculative-tokens", "0", "--max-cpu-loras", str(len(ranks))]
    options += ["--adapter-memory-gb", str(arguments.memory_gb)]
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        (work / "bases").symlink_to(read_home(ServingHome).bases)
        with server_process(work, options) as (url, pid):
            for number, rank in enumerate(ranks):
                made = random_adapter(base, work / "adapter", number, rank)
                push_adapters(base, url, [made], first=number)
                shutil.rmtree(made)
            yield url, pid


def _zipf(chance: random.Random, count: int, num_requests: int) -> list[int]:
    weights = [1 / rank for rank in range(1, count + 1)]
    return chance.choices(range(count), weights, k=num_requests)


def _touch(url: str, count: int) -> None:
    names = [model_name(number) for number in reversed(range(count))]
    asyncio.run(ask_all(url, names, ["hello"] * count, 1, 8))


def _figures(
    url: str, points: Sequence[Point], base: BaseDirectory, rounds: int
) -> list[dict[str, Any]]:
    prompts = Prompts(base)
    timings: list[list[Timing]] = [[] for _ in points]
    for _ in range(rounds):
        for point, each in zip(points, timings, strict=True):
            each.append(point.run(url, prompts))
    return [_figure(point, each) for point, each in zip(points, timings, strict=True)]


def _figure(point: Point, timings: Sequence[Timing]) -> dict[str, Any]:
    latencies = sorted(seconds for timing in timings for seconds in timing.each)
    rates = [NEW_TOKENS * len(point.adapters) / timing.total for timing in timings]
    return {
        "at": point.at,
        "distinct": len(set(point.adapters)),
        "tokens_per_s": statistics.median(rates),
        "rates": rates,
        "p50_s": statistics.median(latencies),
        "p95_s": latencies[int(0.95 * len(latencies))],
    }


def show(found: dict[str, Any]) -> None:
    print(found["machine"])
    for name, points in found["series"].items():
        print(f"\n{name:>32} {'asked for':>10} {'tokens/s':>9} {'p50 s':>7} {'p95 s':>7} {'MB':>7}")
        for point in points:
            resident = f"{point['resident_mb']:7.0f}" if "resident_mb" in point else ""
            print(
                f"{point['at']:>32} {point['distinct']:>10} {point['tokens_per_s']:9.0f} "
                f"{point['p50_s']:7.2f} {point['p95_s']:7.2f} {resident}"
            )


if __name__ == "__main__":
    main()

"""How long an alias move takes to reach servers that follow the registry's events.

    python -m benchmarks.propagation [--servers 8] [--moves 100]

A registry in a process of its own over a directory store; followers as `hotswap serve` has them,
each with its own connection, in this process. Milliseconds from the start of the mover's call until
he has his answer, until every follower has applied the move, until all have acknowledged it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.server import server
from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.event import Event
from hotswap.registry.domain.requests import MoveRequest
from hotswap.registry.http.client import RegistryClient
from hotswap.serving.aliases.follower import Follower
from hotswap.serving.aliases.version_table import VersionTable

NAME = "bench/alias"
TIMEOUT_S = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--servers", type=int, default=8)
    parser.add_argument("--moves", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        with (
            server(Path(work) / "home", command="store serve") as url,
            RegistryClient(url) as mover,
        ):
            for seed in (1, 2):
                bundle = Bundle.read(_adapter(Path(work) / f"v{seed}", seed))
                push(mover, NAME, bundle, bundle.manifest(), by="benchmark", alias="prod")
            with _followers(url, arguments.servers) as arrivals:
                rows = [_move(mover, arrivals, 1 + turn % 2) for turn in range(arguments.moves)]
    print(f"{arguments.moves} moves, {arguments.servers} servers; median / 95 % / worst, ms")
    for what, column in zip(
        ("answered", "applied", "acknowledged"), zip(*rows, strict=True), strict=True
    ):
        print(f"{what:>14}: {_summary(column)}")


class _Arrivals:
    """Counts the servers that have applied each move."""

    def __init__(self, num_servers: int) -> None:
        self.num_servers = num_servers
        self._changed = threading.Condition()
        self._applied: dict[int, int] = {}

    def note(self, sequence: int) -> None:
        with self._changed:
            self._applied[sequence] = self._applied.get(sequence, 0) + 1
            self._changed.notify_all()

    def wait(self, sequence: int) -> float:
        """The time when all had applied the move."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: self._applied.get(sequence, 0) == self.num_servers, TIMEOUT_S
            )
        return time.perf_counter()


class _WatchedTable(VersionTable):
    """Says when it has applied a move."""

    arrivals: _Arrivals

    def apply(self, event: Event) -> None:
        super().apply(event)
        if event.move is not None:
            self.arrivals.note(event.move.sequence)


def _serve_all(ref: str) -> None:
    """No reference is refused."""


@contextmanager
def _followers(url: str, num_servers: int) -> Iterator[_Arrivals]:
    arrivals = _Arrivals(num_servers)
    with ExitStack() as stack:
        for _ in range(num_servers):
            client = stack.enter_context(RegistryClient(url))
            table = _WatchedTable(client, max_age_s=30, grace_s=600)
            table.arrivals = arrivals
            follower = Follower(client, table, base="none", loaded=list, check=_serve_all)
            follower.start()
            stack.callback(follower.stop)
        watcher = stack.enter_context(RegistryClient(url))
        while len(watcher.events.servers()) < num_servers:
            time.sleep(0.05)
        yield arrivals


def _move(mover: RegistryClient, arrivals: _Arrivals, to: int) -> tuple[float, float, float]:
    applied: list[float] = []
    sequence = mover.aliases.history(NAME, "prod")[-1].sequence + 1
    watcher = threading.Thread(target=lambda: applied.append(arrivals.wait(sequence)))
    watcher.start()
    start = time.perf_counter()
    mover.aliases.move(MoveRequest(NAME, "prod", to, by="benchmark"))
    answered = time.perf_counter()
    end = mover.events.read().cursor
    while any(server.cursor < end for server in mover.events.servers()):
        pass
    acknowledged = time.perf_counter()
    watcher.join()
    return answered - start, applied[0] - start, acknowledged - start


def _adapter(directory: Path, seed: int) -> Path:
    """A PEFT directory with one tiny module."""
    directory.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "none", "r": 2, "lora_alpha": 2,
              "target_modules": ["q_proj"]}  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(config))
    values = np.random.default_rng(seed)
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{module}.lora_{part}.weight": values.random((2, 2), np.float32) for part in "AB"}
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def _summary(seconds: Sequence[float]) -> str:
    ordered = sorted(1000 * value for value in seconds)
    most = ordered[int(0.95 * len(ordered))]
    return f"{statistics.median(ordered):.0f} / {most:.0f} / {ordered[-1]:.0f}"


if __name__ == "__main__":
    main()

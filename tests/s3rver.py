"""s3rver (npm) for tests: an S3 server that ignores If-None-Match, the store that must be refused.

It is installed once, into a cache directory outside the repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers import free_ports, give_up, running

PACKAGE = "s3rver@3.7.1"
ACCESS_KEY = SECRET_KEY = "S3RVER"  # it knows no others
INSTALL_TIMEOUT_S = 300


def install() -> Path:
    """The script to run with node; gives the test up where there is no node or no npm registry."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "hotswap-tests" / PACKAGE
    script = directory / "node_modules" / ".bin" / "s3rver"
    if not shutil.which("node"):
        give_up(f"needs {PACKAGE}: install nodejs and npm")
    if not script.exists():
        if not shutil.which("npm"):
            give_up(f"needs {PACKAGE}: install npm")
        _install_into(directory)
    return script


def _install_into(directory: Path) -> None:
    """The directory appears complete, whoever else installs at the same time."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        work = Path(temporary) / "work"
        work.mkdir()
        ran = subprocess.run(
            ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund",
             "--prefix", str(work), PACKAGE],
            capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S,
        )  # fmt: skip
        if ran.returncode != 0:
            give_up(f"needs {PACKAGE}: npm install failed: {ran.stderr[-500:]}")
        with suppress(OSError):  # another was faster
            work.rename(directory)


@contextmanager
def s3rver(directory: Path, bucket: str) -> Iterator[str]:
    """A server with the one bucket; yields its URL."""
    script = install()
    (port,) = free_ports(1)
    command = [
        "node", str(script), "--directory", str(directory / "data"), "--address", "127.0.0.1",
        "--port", str(port), "--no-vhost-buckets", "--configure-bucket", bucket,
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with running(command, url, directory / "log"):
        yield url

"""A Ceph RADOS gateway for tests: one monitor, one memory-backed OSD and the gateway, on loopback.

No manager daemon: only statistics need it. Nothing is kept when it stops.
"""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers import ACCESS_KEY, SECRET_KEY, free_ports, wait_until_answering

PACKAGES = "ceph-mon ceph-osd radosgw ceph-common"
MEMORY_BYTES = 4 << 30
COMMAND_TIMEOUT_S = 60
_CAPABILITIES = {"mon.": ("mon",), "client.admin": ("mon", "osd"), "osd.0": ("mon", "osd")}
_PROGRAMS = ("ceph", "ceph-authtool", "monmaptool", "ceph-mon", "ceph-osd", "radosgw")

# paxos: by default each change of the cluster map waits a second; the gateway makes ten at start.
_CONFIG = """[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}/0
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {directory}/keyring
run dir = {directory}
admin socket = {directory}/$name.$pid.asok
log file = {directory}/$name.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
mon data = {directory}/mon
mon data avail crit = 1
paxos propose interval = 0.02
paxos min wait = 0.01
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = {memory_bytes}
osd class load list = *
osd class default list = *
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


def has_radosgw() -> bool:
    return all(shutil.which(program) for program in _PROGRAMS)


@contextmanager
def radosgw(directory: Path) -> Iterator[str]:
    """A gateway whose one user has ACCESS_KEY; yields its URL."""
    port, mon_port = free_ports(2)
    cluster = _Cluster(directory, port, mon_port)
    with ExitStack() as stack:
        cluster.make_keys()
        cluster.make_monitor()
        stack.enter_context(cluster.daemon("ceph-mon", "-i", "a"))
        cluster.make_osd()
        stack.enter_context(cluster.daemon("ceph-osd", "-i", "0"))
        gateway = stack.enter_context(cluster.daemon("radosgw", "-n", "client.admin"))
        cluster.run(
            "radosgw-admin", "-n", "client.admin", "user", "create", "--uid=test",
            "--display-name=test", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}",
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        wait_until_answering(url, gateway)
        yield url


class _Cluster:
    """The programs of one cluster, all with its configuration file."""

    def __init__(self, directory: Path, port: int, mon_port: int) -> None:
        self._directory = directory
        self._keyring = directory / "keyring"
        self._config = directory / "ceph.conf"
        self._fsid = str(uuid.uuid4())
        self._mon_port = mon_port
        for name in ("mon", "osd"):
            (directory / name).mkdir()
        self._config.write_text(
            _CONFIG.format(
                fsid=self._fsid,
                port=port,
                mon_port=mon_port,
                directory=directory,
                memory_bytes=MEMORY_BYTES,
            )
        )

    def make_keys(self) -> None:
        self._keyring.touch(0o600)
        for name, services in _CAPABILITIES.items():
            allowed = [word for service in services for word in ("--cap", service, "allow *")]
            self._run("ceph-authtool", str(self._keyring), "--gen-key", "-n", name, *allowed)

    def make_monitor(self) -> None:
        monmap = str(self._directory / "monmap")
        address = f"[v2:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, monmap)
        self.run(
            "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", str(self._keyring)
        )

    def make_osd(self) -> None:
        osd_id = str(uuid.uuid4())
        self.run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd_id)
        self.run("ceph", "--connect-timeout", str(COMMAND_TIMEOUT_S), "osd", "new", osd_id)

    def run(self, program: str, *arguments: str) -> None:
        self._run(program, "-c", str(self._config), *arguments)

    @contextmanager
    def daemon(self, program: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [program, "-c", str(self._config), *arguments, "-f"]
        with (self._directory / f"{program}.out").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def _run(self, *command: str) -> None:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
        assert ran.returncode == 0, f"{' '.join(command)}: {ran.stderr}"

"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def describe_machine() -> str:
    """The processor, its vector extensions, cores, memory, and the versions that matter."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    name = facts.get("model name", platform.machine())
    features = [feature for feature in FEATURES if feature in facts.get("flags", "").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{name} ({', '.join(features)}), {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, torch {version('torch')}, "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )


def cores_in_use(seconds: float = 3) -> float:
    """How many cores others keep busy, this machine's host among them; asked before measuring.

    The load average would tell of the minute before, and so of the benchmark that ended in it.
    """
    before = _cpu_times()
    time.sleep(seconds)
    used, idle = (now - then for now, then in zip(_cpu_times(), before, strict=True))
    return (os.cpu_count() or 1) * used / (used + idle)


def _cpu_times() -> tuple[int, int]:
    """All cores' time in use, and idle or waiting for a disk: proc_stat(5)."""
    line = Path("/proc/stat").read_text().split("\n", 1)[0]
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return user + nice + system + irq + softirq + steal, idle + iowait

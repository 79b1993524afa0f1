"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def fast_dtype() -> str:
    """What floating-point peers compute in: bfloat16 where the processor multiplies it. Elsewhere
    it takes 2.7 times as long as float32 (oneDNN's products, AVX-512 without BF16)."""
    return "bfloat16" if "avx512_bf16" in _features(_processor()) else "float32"


def describe_machine() -> str:
    """The processor, its vector extensions, cores, memory, and the versions that matter."""
    facts = _processor()
    name = facts.get("model name", platform.machine())
    features = _features(facts)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{name} ({', '.join(features)}), {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, torch {version('torch')}, "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )


def _processor() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in facts.items()}


def _features(processor: dict[str, str]) -> list[str]:
    there = processor.get("flags", "").split()
    return [feature for feature in FEATURES if feature in there]

"""Writes that are on disk before they are told of. Knows nothing of what is written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_file(path: Path, data: bytes) -> None:
    """Put `data` in place of what is at `path`, as `replace_file` does."""

    def write(part: Path) -> None:
        part.write_bytes(data)

    replace_file(path, write)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Put what `write` leaves at the path it is given in place of what is at `path`: whole or not
    at all, after a power cut too."""
    part = path.with_name(f".{path.name}.part")
    write(part)
    sync(part)
    part.replace(path)
    sync(path.parent)


def make_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """A new directory that appears with all that `fill` wrote into it, or not at all.

    Files that `fill` copies must be synced by it.
    """
    part = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
    try:
        fill(part)
        sync(part)
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync(path.parent)


def remove_directory(path: Path) -> None:
    """It is gone at once and as a whole; its bytes follow."""
    gone = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
    path.rename(gone / path.name)
    sync(path.parent)
    shutil.rmtree(gone, ignore_errors=True)


def open_directory(path: Path) -> list[Path]:
    """Make the directory if need be, clear what a crash left half made, and list the rest."""
    path.mkdir(parents=True, exist_ok=True)
    found = []
    for entry in sorted(path.iterdir()):
        if entry.name.startswith("."):
            shutil.rmtree(entry, ignore_errors=True)
        else:
            found.append(entry)
    return found


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Watches that a process syncs what it renames or links: bytes before the name, the name before
the test ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Inode = tuple[int, int]


class SyncWatch:
    """Invariant: `unsynced` holds every path below `root` that got its final name before its bytes
    were on disk, and every directory with a name that is not on disk yet."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self._root = root
        self.num_names = 0
        self._early: list[str] = []
        self._synced: dict[Inode, tuple[int, int]] = {}
        self._pending: dict[Inode, str] = {}
        fsync = os.fsync
        patch.setattr(os, "fsync", lambda file: (fsync(file), self._sync(file))[0])
        for name in ("rename", "replace", "link"):
            patch.setattr(os, name, self._watched(getattr(os, name)))

    @property
    def unsynced(self) -> list[str]:
        return [*self._early, *self._pending.values()]

    def _sync(self, file: int) -> None:
        status = os.fstat(file)
        self._synced[_inode(status)] = _state(status)
        self._pending.pop(_inode(status), None)

    def _watched(self, give_name: Callable[..., None]) -> Callable[..., None]:
        def watched(source: Any, target: Any, **options: Any) -> None:
            if self._root not in Path(target).parents:
                return give_name(source, target, **options)
            for path in _tree(Path(source)):
                status = path.stat()
                if self._synced.get(_inode(status)) != _state(status):
                    self._early.append(str(path))
            give_name(source, target, **options)
            self.num_names += 1
            parent = Path(target).parent
            self._pending[_inode(parent.stat())] = str(parent)
            return None

        return watched


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _tree(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        yield from path.rglob("*")

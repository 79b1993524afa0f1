"""What happened to a job, in order: one JSON line an event, only ever appended."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

from hotswap.registry.durable import sync

Level = Literal["info", "warn", "error"]


class EventLog:
    """Invariant: every line but the last is whole; a last one that a crash cut is overwritten.

    One process appends, one call at a time; any thread may read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = _repaired(path)

    def append(self, message: str, level: Level = "info", **data: Any) -> None:
        """With `data` it is an event of metrics, which need not outlive a power cut."""
        event = {
            "id": f"ftevent-{self._count + 1:09d}",
            "object": "fine_tuning.job.event",
            "created_at": int(time.time()),
            "level": level,
            "message": message,
            "type": "metrics" if data else "message",
            "data": data,
        }
        with self._path.open("ab") as file:
            file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        if not data:
            sync(self._path)
        self._count += 1

    def newest_first(self) -> list[dict[str, Any]]:
        lines = self._path.read_bytes().split(b"\n")[:-1]  # behind the last line end is nothing
        return [json.loads(line) for line in reversed(lines)]


def _repaired(path: Path) -> int:
    """Cut off what is behind the last line end, and count the lines."""
    path.touch()
    sync(path.parent)
    data = path.read_bytes()
    os.truncate(path, data.rfind(b"\n") + 1)
    return data.count(b"\n")

"""Kills a process before each call that changes the file system, and says what is left each time.

    LD_PRELOAD=kill_before.so python -m tests.registry.crashes ACT DIRECTORY

prints one JSON line an attempt: the files that have a name. The last attempt was not killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hotswap.registry import durable
from hotswap.registry.storage.local import LocalStore

OLD, NEW = b"old" * 1000, b"new" * 1000


def write_file(place: Path) -> None:
    durable.write_file(place / "file", NEW)


def new_file(place: Path) -> None:
    with durable.new_file(place / "file") as part:
        part.write_bytes(NEW)


def new_directory(place: Path) -> None:
    with durable.new_directory(place / "in" / "new") as part:
        (part / "a").write_bytes(NEW)
        (part / "below").mkdir()
        (part / "below" / "b").write_bytes(NEW)


def remove_directory(place: Path) -> None:
    durable.remove_directory(place / "old")


def create(place: Path) -> None:
    LocalStore(place).create("team/sql/1", NEW)


def put(place: Path) -> None:
    LocalStore(place).put("team/sql/1", [NEW, NEW])


@dataclass(frozen=True)
class Act:
    """The files before it and after it, by path."""

    before: dict[str, bytes]
    do: Callable[[Path], None]
    after: dict[str, bytes]


ACTS = {
    "write_file": Act({"file": OLD}, write_file, {"file": NEW}),
    "new_file": Act({}, new_file, {"file": NEW}),
    "new_directory": Act({}, new_directory, {"in/new/a": NEW, "in/new/below/b": NEW}),
    "remove_directory": Act({"old/a": OLD, "old/b": OLD}, remove_directory, {}),
    "create": Act({}, create, {"team/sql/1": NEW}),
    "put": Act({"team/sql/1": OLD}, put, {"team/sql/1": NEW + NEW}),
}


def is_killed(act: Act, place: Path, call: int) -> bool:
    """Do it in a process of its own, which is killed before its call number `call`."""
    for name, data in act.before.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    child = os.fork()
    if child == 0:
        library = ctypes.CDLL(None)
        library.kill_before(ctypes.c_long(call))
        act.do(place)
        library.kill_before(ctypes.c_long(0))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("it fails when nobody kills it")
    return os.WIFSIGNALED(status)


def named(place: Path) -> dict[str, str]:
    """The files that a reader finds: nobody looks at hidden names."""
    paths = [path.relative_to(place) for path in place.rglob("*") if path.is_file()]
    seen = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    return {str(path): (place / path).read_bytes().hex() for path in seen}


def main(act: str, directory: Path) -> None:
    for call in count(1):
        place = directory / str(call)
        place.mkdir()
        ended = not is_killed(ACTS[act], place, call)
        print(json.dumps(named(place)), flush=True)
        if ended:
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

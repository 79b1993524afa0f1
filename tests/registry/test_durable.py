"""Files that appear whole or not at all, whenever the process that writes them is killed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hotswap.registry import durable
from hotswap.registry.storage.local import LocalStore
from tests.registry.crashes import ACTS
from tests.servers import give_up

ROOT = Path(__file__).parent.parent.parent
PRODUCT = [
    path
    for layer in ("registry", "serving", "training")
    for path in sorted((ROOT / layer).rglob("*.py"))
    if path != ROOT / "registry/durable.py"
]
ONLY_DURABLE = {"fsync", "hardlink_to", "link", "mkdtemp", "mkstemp", "rename", "renames"}


@pytest.fixture(scope="session")
def kill_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that kills the process it is loaded into."""
    compiler = shutil.which("gcc")
    if compiler is None:
        give_up("needs a C compiler: apt-get install gcc")
    library = tmp_path_factory.mktemp("preload") / "kill_before.so"
    source = Path(__file__).with_name("kill_before.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.parametrize("act", ACTS)
def test_a_process_that_is_killed_leaves_all_or_nothing(
    act: str, kill_before: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.registry.crashes", act, tmp_path],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(kill_before)},
        stdout=subprocess.PIPE,
        check=True,
    )
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    left = [{name: bytes.fromhex(data) for name, data in named.items()} for named in attempts]
    before, after = ACTS[act].before, ACTS[act].after
    assert [named for named in left if named not in (before, after)] == []
    is_done = [named == after for named in left]
    assert len(is_done) > 4
    assert is_done == sorted(is_done)  # what is done stays done
    assert (is_done[0], is_done[-1]) == (False, True)


@pytest.mark.usefixtures("names_are_synced")
def test_names_follow_bytes_to_the_disk(tmp_path: Path) -> None:
    durable.write_file(tmp_path / "file", b"1")
    with durable.new_file(tmp_path / "new") as part:
        part.write_bytes(b"2")
    with durable.new_directory(tmp_path / "x" / "y") as part:
        (part / "below").mkdir()
        (part / "below" / "file").write_bytes(b"3")
    durable.remove_directory(tmp_path / "x" / "y")


@pytest.mark.usefixtures("names_are_synced")
def test_the_store_in_a_directory_syncs_bytes_before_names(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    assert store.create("team/sql/1", b"one")
    assert not store.create("team/sql/1", b"two")
    store.put("team/sql/2", [b"three"])


def test_a_name_that_is_taken_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError), durable.new_file(tmp_path / "file"):
        pytest.fail("the block runs although the name is taken")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError), durable.new_directory(tmp_path / "directory"):
        pytest.fail("the block runs although the name is taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]


def test_of_two_who_race_for_a_file_the_second_is_refused(tmp_path: Path) -> None:
    def second() -> None:
        with durable.new_file(tmp_path / "file") as part:
            part.write_bytes(b"second")
            (tmp_path / "file").write_bytes(b"first")

    with pytest.raises(FileExistsError):
        second()
    assert files(tmp_path) == {"file": b"first"}


def test_of_two_who_race_for_a_directory_the_second_is_refused(tmp_path: Path) -> None:
    def second() -> None:
        with durable.new_directory(tmp_path / "directory") as part:
            (part / "second").write_bytes(b"")
            (tmp_path / "directory").mkdir()
            (tmp_path / "directory" / "first").write_bytes(b"")

    with pytest.raises(FileExistsError):
        second()
    assert files(tmp_path) == {"directory/first": b""}


@pytest.mark.parametrize("new", [durable.replaced_file, durable.new_file, durable.new_directory])
def test_a_block_that_fails_leaves_nothing(
    new: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    def fail() -> None:
        with new(tmp_path / "name") as part:
            (part / "file" if part.is_dir() else part).write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_crash_left_half_made_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".entry-x1").mkdir()
    (tmp_path / ".entry-x1" / "half").write_bytes(b"half")
    (tmp_path / "entry").mkdir()
    assert durable.open_directory(tmp_path) == [tmp_path / "entry"]
    assert list(tmp_path.iterdir()) == [tmp_path / "entry"]


def test_nobody_else_renames_links_or_syncs() -> None:
    calls = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {call.func.attr}"
        for path in PRODUCT
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        if call.func.attr in ONLY_DURABLE or is_path_replace(call, call.func.attr)
    ]
    assert calls == []


def is_path_replace(call: ast.Call, name: str) -> bool:
    """A text's takes two arguments or more, a time's takes names."""
    return name == "replace" and len(call.args) == 1 and not call.keywords


def files(directory: Path) -> dict[str, bytes]:
    paths = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}

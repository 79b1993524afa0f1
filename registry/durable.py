"""Files and directories that appear whole or not at all, and are on disk when a call returns.

Bytes are synced before they get their name, and the name before anyone learns of it. No other file
of the product renames, links or syncs. Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV}


def write_file(path: Path, data: bytes) -> None:
    """Put `data` in place of what is at `path`."""
    with replaced_file(path) as part:
        part.write_bytes(data)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """What the block leaves at the path it is given takes the place of what is at `path`.

    One writer a file: a second one would write to the same part.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        sync(part)
        rename(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_file(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A new file that appears with all that the block wrote to the empty one it is given.

    It has `mode` less the umask, from its first byte on. Raises FileExistsError when `path` is
    taken, before the block or, if someone else was faster, after it.
    """
    if path.exists() or path.is_symlink():
        raise _exists(path)
    part = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield part
        sync(part)
        if not _name_once(part, path):
            raise _exists(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path, mode: int = 0o755, *, synced: bool = True) -> Iterator[Path]:
    """A new directory that appears with all that the block wrote into it; its parents are made.

    Raises FileExistsError when `path` is not free, before the block or, if someone else was
    faster, after it. Without `synced` a crash of the machine may lose what is in it: for
    directories that are checked before they are used.
    """
    if not is_free(path):
        raise _exists(path)
    make_directory(path.parent)
    part = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield part
        part.chmod(mode)
        if synced:
            _sync_tree(part)
        try:
            rename(part, path)
        except OSError as error:
            raise _exists(path) if error.errno in _TAKEN else error from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def is_free(path: Path) -> bool:
    """Whether a new directory can take the name: nothing has it, or an empty directory."""
    if path.is_symlink() or not path.exists():
        return not path.is_symlink()
    return path.is_dir() and not any(path.iterdir())


def remove_directory(path: Path) -> None:
    """It is gone at once and as a whole; its bytes follow."""
    gone = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
    rename(path, gone / path.name)
    sync(path.parent)
    shutil.rmtree(gone, ignore_errors=True)


def open_directory(path: Path) -> list[Path]:
    """Make the directory if need be, clear what a crash left half made, and list the rest."""
    make_directory(path)
    opened = []
    for entry in sorted(path.iterdir()):
        if entry.name.startswith("."):
            shutil.rmtree(entry, ignore_errors=True)
        else:
            opened.append(entry)
    return opened


def make_directory(path: Path) -> None:
    """Make it and its parents where they are missing."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a new file under a name that nobody looks for yet: its directory is not synced."""
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def rename(path: Path, target: Path) -> None:
    """In place of what is at `target`."""
    path.rename(target)
    sync(target.parent)


def link(path: Path, target: Path) -> bool:
    """Give the file a second name; False when that is taken.

    A link fails when the name exists, where a rename would replace it. The name is synced for the
    loser, too: what it reads as existing must survive a power cut.
    """
    try:
        target.hardlink_to(path)
        is_linked = True
    except FileExistsError:
        is_linked = False
    sync(target.parent)
    return is_linked


def sync(path: Path) -> None:
    """A file's bytes, or a directory's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _name_once(part: Path, path: Path) -> bool:
    """As `link`; on a file system without links two who race for the name may both get it."""
    try:
        return link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    if path.exists() or path.is_symlink():
        return False
    rename(part, path)
    return True


def _sync_tree(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            _sync_tree(entry)
        elif entry.is_file():
            sync(entry)
    sync(directory)

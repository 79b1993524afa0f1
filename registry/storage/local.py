"""The object store in a directory: one file an object, durable before it is acknowledged."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

from hotswap.registry.domain.capabilities import Capabilities
from hotswap.registry.domain.errors import StoreUnavailable
from hotswap.registry.durable import link, make_directory, rename, sync, write_chunks
from hotswap.registry.storage.objects import (
    CHUNK_BYTES,
    ObjectMissing,
    ObjectStat,
    Unfinished,
    check_key,
)

_TEMPORARY = ".tmp"  # no key segment starts with '.', so it is never listed


class LocalStore:
    """Invariant: a file has its final name only when it and its directory entry are on disk."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._durable: set[Path] = set()
        with self._explained(self._root):
            make_directory(self._root)
            self._make_directory(self._root / _TEMPORARY)

    @property
    def location(self) -> str:
        return str(self._root)

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        with self._explained(target), self._temporary([data]) as temporary:
            self._make_directory(target.parent)
            return link(temporary, target)

    def put(self, key: str, chunks: Iterable[bytes]) -> None:
        target = self._path(key)
        with self._explained(target), self._temporary(chunks) as temporary:
            self._make_directory(target.parent)
            rename(temporary, target)

    def open(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with self._explained(path):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                raise ObjectMissing(key) from None
            with file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk

    def read(self, key: str, start: int, num_bytes: int) -> bytes:
        path = self._path(key)
        with self._explained(path):
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read(num_bytes)
            except FileNotFoundError:
                raise ObjectMissing(key) from None

    def stat(self, key: str) -> ObjectStat | None:
        path = self._path(key)
        with self._explained(path):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not S_ISREG(status.st_mode):
            return None
        return ObjectStat(status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._explained(path), suppress(FileNotFoundError):
            path.unlink()
            sync(path.parent)

    def list(self, prefix: str) -> Iterator[str]:
        directory = self._root / prefix.rpartition("/")[0]
        with self._explained(directory):
            for path in _files_below(directory):
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix):
                    yield key

    def unfinished(self) -> Iterator[Unfinished]:
        directory = self._root / _TEMPORARY
        with self._explained(directory):
            for path in sorted(directory.iterdir()):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    active_at = datetime.fromtimestamp(status.st_mtime, UTC)
                    yield Unfinished(path.name, status.st_size, active_at)

    def discard(self, unfinished: Unfinished) -> None:
        path = self._root / _TEMPORARY / unfinished.name
        with self._explained(path):
            path.unlink(missing_ok=True)

    @property
    def direct(self) -> None:
        """A directory answers no requests."""

    def measure(self, key: str) -> Capabilities:
        """Known, not measured: a file is renamed whole, and no wire lies between it and us."""
        check_key(key)
        return Capabilities(create_once_multipart=True, enforces_checksums=True)

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextmanager
    def _temporary(self, chunks: Iterable[bytes]) -> Iterator[Path]:
        """A file with the bytes of `chunks` on disk; gone afterwards unless it was renamed."""
        path = self._root / _TEMPORARY / uuid.uuid4().hex
        try:
            write_chunks(path, chunks)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _make_directory(self, directory: Path) -> None:
        """Create the directory so that a power cut cannot take it and the files in it away.

        Another process may have made it and not synced it yet, so that it exists proves
        nothing: each process syncs the entry once for itself.
        """
        if directory in self._durable or directory == self._root:
            return
        self._make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync(directory.parent)
        self._durable.add(directory)

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(
                f"the store at {self._root} cannot be used: {error.strerror or error} ({path})"
            ) from error


def _files_below(directory: Path) -> Iterator[Path]:
    try:
        entries = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files_below(entry)
        else:
            yield entry

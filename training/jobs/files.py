"""Files that jobs train on, and the results they leave.

<files>/<id>/file.json    what is known of the file
<files>/<id>/content      its bytes
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

from hotswap.registry.domain.access import ADMIN, Principal
from hotswap.registry.domain.values import ValueObject
from hotswap.registry.durable import (
    link,
    new_directory,
    open_directory,
    remove_directory,
)
from hotswap.training.errors import TrainingFileNotFound

Purpose = Literal["fine-tune", "fine-tune-results"]

_COPY_BYTES = 1 << 20
_OWNER_ONLY = 0o700
_MAX_NAME = 120


class StoredFile(ValueObject):
    """One file. `owner` is the name of the token that sent it; None on a server without tokens.
    `order` grows with every file."""

    id: str
    filename: str
    purpose: Purpose
    size_bytes: int
    created_at: int
    order: int
    owner: str | None

    def is_visible_to(self, principal: Principal) -> bool:
        return principal.allows(ADMIN) or principal.name == self.owner

    def wire(self) -> dict[str, Any]:
        """OpenAI's `file` object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": self.created_at,
            "expires_at": None,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Files:
    """Invariant: a file that `create` returned is on disk, whole; its bytes never change."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        stored = [_read(entry) for entry in open_directory(directory)]
        self._files = {file.id: file for file in stored}

    def create(
        self,
        source: IO[bytes],
        filename: str,
        purpose: Purpose,
        owner: str | None,
        *,
        file_id: str | None = None,
    ) -> StoredFile:
        """Keep the bytes of `source`. A `file_id` that is taken already gives the file there is."""
        file_id = file_id or f"file-{secrets.token_hex(12)}"
        with self._lock:
            if file_id in self._files:
                return self._files[file_id]
        with new_directory(self._directory / file_id, _OWNER_ONLY) as directory:
            with (directory / "content").open("xb") as file:
                shutil.copyfileobj(source, file, _COPY_BYTES)
                size_bytes = file.tell()
            now_ns = time.time_ns()
            stored = StoredFile(
                id=file_id,
                filename=_plain(filename),
                purpose=purpose,
                size_bytes=size_bytes,
                created_at=now_ns // 10**9,
                order=now_ns,
                owner=owner,
            )
            (directory / "file.json").write_bytes(stored.model_dump_json().encode())
        with self._lock:
            return self._files.setdefault(file_id, stored)

    def get(self, file_id: str, principal: Principal) -> StoredFile:
        """Raises TrainingFileNotFound, also for a file that is someone else's."""
        with self._lock:
            file = self._files.get(file_id)
        if file is None or not file.is_visible_to(principal):
            raise TrainingFileNotFound(
                f"there is no file {file_id[:80]!r}; upload it to /v1/files, or list what there is"
            )
        return file

    def content(self, file: StoredFile) -> Path:
        return self._directory / file.id / "content"

    def lend(self, file: StoredFile, directory: Path) -> None:
        """Make `directory` with the file under its own name; it stays when the file is deleted."""
        directory.mkdir()
        try:
            link(self.content(file), directory / file.filename)
        except FileNotFoundError:
            raise TrainingFileNotFound(f"file {file.id} has just been deleted") from None

    def all(self, is_wanted: Callable[[StoredFile], bool]) -> list[StoredFile]:
        """The newest first."""
        with self._lock:
            wanted = [file for file in self._files.values() if is_wanted(file)]
        return sorted(wanted, key=lambda file: file.order, reverse=True)

    def delete(self, file: StoredFile) -> None:
        """Jobs that train on it have its bytes already. Deleting twice is the same as once."""
        with self._lock:
            if self._files.pop(file.id, None) is not None:
                remove_directory(self._directory / file.id)


def _read(entry: Path) -> StoredFile:
    return StoredFile.model_validate_json((entry / "file.json").read_bytes())


def _plain(filename: str) -> str:
    """The last part of a path, with characters that are safe in a file's name on any disk."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[/\\]", filename)[-1]).lstrip(".")
    return name[-_MAX_NAME:] or "file"

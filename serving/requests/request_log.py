"""A log of requests with their answers: off unless asked for, sampled, bounded, a directory a name.

    <directory>/<name, '/' as '+'>/{previous,current}.jsonl    a row an answer, the newest last
    <directory>/lock                                           held by the server that writes

Rows hold what users wrote, so files are for their owner alone. Whoever offers rows never waits:
a thread of the log's own makes and writes them, and what it cannot keep up with is dropped and
counted.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hotswap.registry.domain.access import covers
from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.durable import rename

CURRENT, PREVIOUS = "current.jsonl", "previous.jsonl"
MAX_QUEUED_BYTES = 32 << 20
STOP_S = 10.0
_ROW_BYTES = 1024  # of a row besides its texts, about
_MAX_NAME_BYTES = 150

Rows = Callable[[], Iterable[Mapping[str, Any]]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Offer:
    name: str
    rows: Rows
    num_rows: int
    num_bytes: int


class RequestLog:
    """Invariants: a name's two files together have at most `max_bytes` (from the next turn of the
    files on, when it was lowered); every line of them is a whole row."""

    def __init__(
        self, directory: Path, *, patterns: Sequence[str], sample_rate: float, max_bytes: int
    ) -> None:
        """Logs the names that `patterns` stand for (the pattern language of scopes), and of their
        requests the share `sample_rate`. Raises InvalidSettings when the directory cannot be used,
        or another server logs there."""
        self._directory = directory
        self._patterns = patterns
        self._sample_rate = sample_rate
        self._max_file_bytes = max_bytes // 2
        self._queue: queue.SimpleQueue[_Offer | None] = queue.SimpleQueue()
        self._counting = threading.Lock()
        self._queued_bytes = 0
        self._counts = {"written": 0, "dropped": 0, "failed": 0}
        self._problem: str | None = None
        self._lock: int | None = _locked(directory)
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)

    def takes(self, names: Iterable[str], request_id: str) -> bool:
        """Whether this request's answers are to be offered: every name is covered, and the hash of
        its id is in the sample, the same on every server."""
        part = int.from_bytes(sha256(request_id.encode()).digest()[:8], "big") / 2**64
        return part < self._sample_rate and all(
            any(covers(pattern, name) for pattern in self._patterns) for name in names
        )

    def offer(self, name: str, rows: Rows, *, num_rows: int, num_chars: int) -> None:
        """Have the rows written below `name`; they are made by the log's thread. Never waits."""
        num_bytes = num_rows * _ROW_BYTES + num_chars
        with self._counting:
            if self._queued_bytes + num_bytes > MAX_QUEUED_BYTES:
                self._counts["dropped"] += num_rows
                return
            self._queued_bytes += num_bytes
        self._queue.put(_Offer(name, rows, num_rows, num_bytes))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what was offered, for at most STOP_S seconds."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def health(self) -> dict[str, Any]:
        """Rows written; dropped because the disk was too slow or a row was larger than a file;
        failed, with what the last one failed of. Names nobody and no path: anyone may read it."""
        with self._counting:
            problem = {} if self._problem is None else {"problem": self._problem}
            return {**self._counts, **problem}

    def _run(self) -> None:
        while (offer := self._queue.get()) is not None:
            self._write(offer)

    def _write(self, offer: _Offer) -> None:
        kept = 0
        problem: str | None = None
        try:
            files = _Files(self._directory / directory_name(offer.name), self._max_file_bytes)
            for row in offer.rows():
                text = json.dumps(row, ensure_ascii=False) + "\n"
                kept += files.append(text.encode("utf-8", "replace"))
            outcome = "dropped"
        except Exception as error:  # a full disk must not end the thread
            outcome, problem = "failed", getattr(error, "strerror", None) or type(error).__name__
            _log.warning("the request log lost rows of %s: %s", offer.name, error)
        with self._counting:
            self._queued_bytes -= offer.num_bytes
            self._counts["written"] += kept
            self._counts[outcome] += offer.num_rows - kept
            self._problem = problem or self._problem


@dataclass(frozen=True, slots=True)
class _Files:
    """The two files of one name. Opened for every row: a server may log for thousands of names."""

    directory: Path
    max_file_bytes: int

    def append(self, line: bytes) -> bool:
        """False for a line that is larger than a file may be."""
        if len(line) > self.max_file_bytes:
            return False
        self.directory.mkdir(exist_ok=True, mode=0o700)
        descriptor = self._open()
        try:
            size = _whole_lines(descriptor)
            if size + len(line) > self.max_file_bytes:
                rename(self.directory / CURRENT, self.directory / PREVIOUS)
                os.close(descriptor)
                descriptor, size = self._open(), 0
            _append(descriptor, line, size)
        finally:
            os.close(descriptor)
        return True

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self.directory / CURRENT, flags, 0o600)
        os.fchmod(descriptor, 0o600)
        return descriptor


def directory_name(name: str) -> str:
    """Where a name's files are, below the log's directory. Different names have different ones, and
    none leads anywhere else."""
    text = quote(name, safe="").replace("%2F", "+")
    if len(text) > _MAX_NAME_BYTES:  # a base may be called anything
        text = f"{text[:_MAX_NAME_BYTES]}%{sha256(name.encode()).hexdigest()}"
    return f"%2E{text[1:]}" if text.startswith(".") else text


def _locked(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InvalidSettings(
            f"the request log cannot be kept in {directory}: {error.strerror}; give another"
            " --request-log-directory, or leave --log-requests out"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InvalidSettings(
            f"another server keeps its request log in {directory}; give this one another"
            " --request-log-directory"
        ) from None
    return lock


def _whole_lines(descriptor: int) -> int:
    """The file's size once the end of a row that a crash cut off is removed."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        size = os.pread(descriptor, size, 0).rfind(b"\n") + 1
        os.ftruncate(descriptor, size)
    return size


def _append(descriptor: int, line: bytes, size: int) -> None:
    """All of the line or nothing."""
    try:
        left = memoryview(line)
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise

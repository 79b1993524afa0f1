"""Garbage collection of a store, safe while pushes run (see `registry.ledger.pins` for why).

An unreferenced blob or manifest is condemned when it is older than the grace period, and deleted
by a later sweep when it has been condemned for the grace period and is still unreferenced. Roots
are: every version that is not purged, every target in any alias's history, the digests that
servers report as loaded, and what running pushes have pinned. A version that has been deleted for
the grace period, and is none of these otherwise, is purged first.

A sweep that cannot read a record or a manifest deletes nothing: it would not know the roots.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from hotswap.registry.access.audit import AuditLog
from hotswap.registry.clock import Clock, utc_now
from hotswap.registry.domain.adapters import AdapterVersion, VersionState
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import BlobCorrupted, InvalidRequest
from hotswap.registry.domain.layout import (
    BLOBS,
    CONDEMNED,
    MANIFESTS,
    PINS,
    SERVERS,
    SWEEPS,
    UNVERIFIED,
    blob_key,
    condemned_key,
    manifest_key,
    parse_condemned_key,
    parse_unverified_key,
)
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.values import ValueObject
from hotswap.registry.events.servers import read_servers
from hotswap.registry.ledger.pins import MARGIN, announced, read_notes
from hotswap.registry.ledger.publisher import audit_state
from hotswap.registry.ledger.records import Records
from hotswap.registry.ledger.states import next_state
from hotswap.registry.ledger.tail import LogTail
from hotswap.registry.storage.objects import ObjectMissing, ObjectStore

MIN_GRACE = timedelta(hours=1)
DEFAULT_GRACE = timedelta(days=7)
BATCH = 100
SWEEPER = "sweep"

Loaded = Callable[[], Iterable[Digest]]


class Swept(ValueObject):
    """One object and its size."""

    key: str
    size_bytes: int


class SweepReport(BaseModel):
    """What a sweep did, or would do when it is a dry run."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool
    num_live: int = 0
    purged: list[str] = []
    """Versions whose deletion became final."""
    condemned: list[Swept] = []
    """Unreferenced: deleted by a sweep after the grace period, unless something refers to them."""
    waiting: list[Swept] = []
    """Condemned before, or too young to be."""
    deleted: list[Swept] = []
    unfinished: list[Swept] = []
    """Temporary files and multipart uploads that never ended."""

    @property
    def freed_bytes(self) -> int:
        return sum(each.size_bytes for each in [*self.deleted, *self.unfinished])


def nothing_loaded() -> Iterable[Digest]:
    return ()


class Sweep:
    """One sweep. Several may run at once, and in several processes."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        grace: timedelta = DEFAULT_GRACE,
        loaded: Loaded = nothing_loaded,
        now: Clock = utc_now,
    ) -> None:
        """`loaded` gives manifest digests that servers hold now beside those that report to a
        registry of this store; it is asked before each batch of deletions. Raises InvalidRequest
        for a grace period below MIN_GRACE."""
        if grace < MIN_GRACE:
            raise InvalidRequest(
                f"the grace period is {grace}; give at least {MIN_GRACE}: a push must be able to "
                "end within it"
            )
        self._store = store
        self._records = Records(store)
        self._grace = grace
        self._loaded = loaded
        self._now = now
        self._versions: dict[tuple[str, int], AdapterVersion] = {}
        self._targets: dict[tuple[str, str, int], int] = {}
        self._files: dict[Digest, frozenset[str]] = {}

    def run(self, *, delete: bool = False) -> SweepReport:
        """Purge, condemn, delete and tidy; with `delete` False only say what would be done.

        Raises BlobCorrupted when a record or a manifest that is needed cannot be read.
        """
        report = SweepReport(dry_run=not delete)
        purged = set(self._purge(report, delete=delete))
        due = self._condemn(self._roots(purged), report, delete=delete)
        for start in range(0, len(due), BATCH):
            self._delete(due[start : start + BATCH], report, delete=delete)
        self._tidy(report, delete=delete)
        return report

    def _purge(self, report: SweepReport, *, delete: bool) -> Iterator[tuple[str, int]]:
        """Make old deletions final; a claim, so that an undelete wins or is refused."""
        tail: LogTail | None = None
        for version, state in self._deleted():
            if delete:
                tail = tail or LogTail(self._records)  # before the claim: see its invariant
                purged = next_state(
                    state, state.name, state.number, "purged", SWEEPER, "grace period is over"
                )
                if not self._records.claim_state(purged):
                    continue
                tail.append(purged, version)
                audit_state(AuditLog(self._store), "purge", state, purged)
            report.purged.append(str(version.ref))
            yield state.name, state.number

    def _deleted(self) -> Iterator[tuple[AdapterVersion, VersionState]]:
        """Versions that were deleted a grace period ago and that nothing else keeps."""
        states = [s for s in self._states() if s.state == "deleted"]
        old = [s for s in states if self._is_old(s.changed_at)]
        if not old:
            return
        targets, loaded = self._history(), self._held()
        for state in old:
            version = self._version(state.name, state.number)
            if (state.name, state.number) not in targets and version.manifest_digest not in loaded:
                yield version, state

    def _roots(self, purged: set[tuple[str, int]]) -> frozenset[str]:
        """The keys that must stay; `purged` counts as purged (for a dry run).

        Pins are read first: a push that has removed its pin has its record in the store, where
        the reading of versions and states finds it.
        """
        roots: set[str] = set()
        for pin in read_notes(self._store, PINS):
            if not self._is_old(pin.at):
                roots |= pin.keys
        # A server may hold what another store gave it.
        digests = {d for d in self._held() if self._store.stat(manifest_key(d)) is not None}
        gone = (
            purged
            | {(s.name, s.number) for s in self._states() if s.state == "purged"} - self._history()
        )
        for name, number in self._records.version_keys():
            if (name, number) not in gone:
                digests.add(self._version(name, number).manifest_digest)
        for digest in digests:
            roots |= self._keys_of(digest)
        return frozenset(roots)

    def _condemn(self, roots: frozenset[str], report: SweepReport, *, delete: bool) -> list[str]:
        """Mark what is unreferenced and old, clear marks of what is not; the keys that are due."""
        marks = set(self._store.list(CONDEMNED))
        due: list[str] = []
        for prefix in (BLOBS, MANIFESTS):
            for key in self._store.list(prefix):
                mark = condemned_key(key)
                if key in roots:
                    report.num_live += 1
                    if delete and mark in marks:
                        self._store.delete(mark)
                    continue
                stat = self._store.stat(key)
                if stat is None:
                    continue
                swept = Swept(key=key, size_bytes=stat.size_bytes)
                if not self._is_old(stat.modified_at):
                    report.waiting.append(swept)
                elif mark not in marks:
                    report.condemned.append(swept)
                    if delete:
                        self._mark(mark)
                elif (since := self._condemned_at(mark)) is not None and self._is_old(since):
                    due.append(key)
                else:
                    report.waiting.append(swept)
        return due

    def _delete(self, keys: list[str], report: SweepReport, *, delete: bool) -> None:
        """Delete what is still unreferenced once the deletion is announced to pushes."""
        if not delete:
            for key in keys:
                if (stat := self._store.stat(key)) is not None:
                    report.deleted.append(Swept(key=key, size_bytes=stat.size_bytes))
            return
        with announced(self._store, keys, self._now) as note:
            roots = self._roots(set())
            for key in keys:
                mark = condemned_key(key)
                stat = self._store.stat(key)
                since = self._condemned_at(mark)
                if key in roots or stat is None or since is None:
                    continue
                if not (self._is_old(since) and self._is_old(stat.modified_at)):
                    continue
                if self._now() > note.at - MARGIN:
                    return  # the rest is for the next sweep: pushes no longer heed this one
                self._store.delete(key)
                self._store.delete(mark)
                report.deleted.append(Swept(key=key, size_bytes=stat.size_bytes))

    def _tidy(self, report: SweepReport, *, delete: bool) -> None:
        """Remove what crashes left: unfinished writes, pins, announcements, marks of nothing."""
        for unfinished in self._store.unfinished():
            if self._is_old(unfinished.active_at):
                report.unfinished.append(
                    Swept(key=unfinished.name, size_bytes=unfinished.size_bytes)
                )
                if delete:
                    self._store.discard(unfinished)
        if not delete:
            return
        for prefix in (PINS, SWEEPS):
            for note in read_notes(self._store, prefix):
                if self._is_old(note.at):
                    self._store.delete(note.key)
        for key in list(self._store.list(SERVERS)):
            stat = self._store.stat(key)
            if stat is not None and self._is_old(stat.modified_at):
                self._store.delete(key)  # the server ended without a goodbye
        for mark in list(self._store.list(UNVERIFIED)):
            stat = self._store.stat(mark)
            if stat is None or not self._is_old(stat.modified_at):
                continue  # what was to be uploaded may still come
            if self._store.stat(parse_unverified_key(mark)) is None:
                self._store.delete(mark)
        for mark in list(self._store.list(CONDEMNED)):
            if self._store.stat(parse_condemned_key(mark)) is None:
                self._store.delete(mark)

    def _mark(self, mark: str) -> None:
        self._store.create(mark, json.dumps({"at": self._now().isoformat()}).encode())

    def _condemned_at(self, mark: str) -> datetime | None:
        """None when a push has taken the mark away."""
        try:
            data = b"".join(self._store.open(mark))
        except ObjectMissing:
            return None
        try:
            return datetime.fromisoformat(json.loads(data)["at"])
        except (ValueError, KeyError, TypeError):
            raise BlobCorrupted(
                f"{self._store.location}, {mark}: not a sweep's mark; remove it"
            ) from None

    def _is_old(self, at: datetime) -> bool:
        return self._now() - at >= self._grace

    def _held(self) -> set[Digest]:
        """The manifest digests that servers hold: those of reports, those of their notes."""
        noted = {d for s in read_servers(self._store, self._now()) for d in s.loaded}
        return noted | set(self._loaded())

    def _states(self) -> Iterator[VersionState]:
        """The newest state of every version that has one; records may be added meanwhile."""
        newest: dict[tuple[str, int], int] = {}
        for name, number, sequence in self._records.state_keys():
            newest[name, number] = max(sequence, newest.get((name, number), 0))
        for (name, number), sequence in newest.items():
            yield self._records.state(name, number, sequence)

    def _history(self) -> set[tuple[str, int]]:
        """Every version any alias has ever pointed to."""
        for key in self._records.move_keys() - self._targets.keys():
            self._targets[key] = self._records.move(*key).to_number
        return {(name, number) for (name, _, _), number in self._targets.items()}

    def _version(self, name: str, number: int) -> AdapterVersion:
        if (name, number) not in self._versions:
            self._versions[name, number] = self._records.version(name, number)
        return self._versions[name, number]

    def _keys_of(self, digest: Digest) -> frozenset[str]:
        """The manifest's key and those of its files; a manifest never changes."""
        if digest not in self._files:
            key = manifest_key(digest)
            try:
                data = b"".join(self._store.open(key))
            except ObjectMissing:
                data = b""
            if Digest.of(data) != digest:
                raise BlobCorrupted(
                    f"{self._store.location}, {key}: the manifest of a version is missing or "
                    "damaged, so nothing was swept; see `hotswap store verify --all`, push it again"
                )
            files = Manifest.parse(data).files
            self._files[digest] = frozenset({key, *(blob_key(file.digest) for file in files)})
        return self._files[digest]

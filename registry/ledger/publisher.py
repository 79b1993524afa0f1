"""Publishes what was claimed: its event for those who follow, its entry in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from hotswap.registry.access.audit import AuditLog
from hotswap.registry.domain.adapters import (
    AdapterRef,
    AdapterVersion,
    AliasMove,
    VersionState,
)
from hotswap.registry.domain.signatures import VersionSignature
from hotswap.registry.ledger.log import EventLog
from hotswap.registry.tasks import Start, Tasks


class Publisher:
    """Invariant: the event of what was claimed is pending before anything else is done, so that a
    later append, look or start publishes it when this process cannot."""

    def __init__(self, log: EventLog, audit: AuditLog, tasks: Tasks) -> None:
        self._log = log
        self._audit = audit
        self._tasks = tasks

    def together(self) -> AbstractContextManager[Start]:
        """What is started inside has ended afterwards; see Tasks."""
        return self._tasks.together()

    def version(self, version: AdapterVersion, start: Start) -> None:
        """`start` makes the two writes, which may end after this returns."""
        self._log.enqueue([version])  # before any event of a move to it
        start(self._log.append)
        digest = str(version.manifest_digest)
        what = str(version.ref)
        start(partial(self._audit.record, "push", what, who=version.created_by, after=digest))

    def signature(self, record: VersionSignature, by: str) -> None:
        what = f"{record.name}@{record.manifest_digest}"
        self._audit.record("sign", what, who=by, after=record.signature.key)

    def move(self, move: AliasMove, action: str, beside: Callable[[AliasMove], object]) -> None:
        """`beside` is called with the move at the same time."""
        self._log.enqueue([move])  # also if what follows fails
        with self._tasks.together() as start:
            start(self._log.append)
            start(beside, move)
            self._audit.record(
                action,
                f"{move.name}@{move.alias}",
                who=move.moved_by,
                before=move.from_number,
                after=move.to_number,
                why=move.why,
            )

    def state(self, before: VersionState | None, after: VersionState, action: str) -> None:
        self._log.append([after])
        audit_state(self._audit, action, before, after)


def audit_state(
    audit: AuditLog, action: str, before: VersionState | None, after: VersionState
) -> None:
    audit.record(
        action,
        str(AdapterRef(after.name, number=after.number)),
        who=after.changed_by,
        before=before.state if before else "active",
        after=after.state,
        why=after.why,
    )

"""The audit log: who changed what, from what to what, when, in which request.

Entries are objects in the store, written once under their time and a random id, so that writers
never wait for each other and none can overwrite another. An entry is written after its
change; the change's own record (version, move, token) is the truth if a crash comes between.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from hotswap.registry.domain.access import AuditEntry
from hotswap.registry.domain.errors import BlobCorrupted
from hotswap.registry.domain.layout import AUDIT, audit_key
from hotswap.registry.domain.values import first_problem
from hotswap.registry.storage.objects import ObjectMissing, ObjectStore

# Set for the time of one HTTP request, and for nothing else; empty where there is no request.
request_id: ContextVar[str] = ContextVar("request_id", default="")


class AuditLog:
    """Appends and reads entries. Invariant: an entry never changes and is never removed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def record(
        self,
        action: str,
        what: str,
        *,
        who: str,
        before: Any = None,
        after: Any = None,
        why: str = "",
    ) -> None:
        """Append one entry; `before` and `after` are plain JSON values."""
        entry = AuditEntry(
            at=datetime.now(UTC),
            who=who,
            action=action,
            what=what,
            before=before,
            after=after,
            why=why,
            request_id=request_id.get(),
        )
        data = json.dumps(entry.model_dump(mode="json"), ensure_ascii=False, indent=1)
        self._store.create(audit_key(entry.at, uuid.uuid4().hex), data.encode())

    def entries(self, since: datetime | None = None) -> Iterator[AuditEntry]:
        """The entries from `since` on, in order of time."""
        first = audit_key(since, "") if since else AUDIT
        for key in sorted(self._store.list(AUDIT)):
            if key >= first.removesuffix(".json"):
                yield self._entry(key)

    def _entry(self, key: str) -> AuditEntry:
        try:
            return AuditEntry.model_validate_json(b"".join(self._store.open(key)))
        except (ValidationError, ObjectMissing) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else "missing"
            raise BlobCorrupted(
                f"{self._store.location}, {key} is not an audit entry: {problem}; "
                "restore the object"
            ) from None

"""Access control of a registry that runs elsewhere: it is asked; answers are kept for a second."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Protocol

from registry.access.audit import AuditEntry
from registry.access.scopes import NewToken, Principal, TokenInfo
from registry.errors import Unauthenticated

FRESHNESS_S = 1.0
MAX_KNOWN = 4096


class _Client(Protocol):
    """The verbs of RegistryClient that are used here."""

    def whoami(self, token: str | None) -> Principal: ...
    def create_token(
        self, name: str, scopes: Iterable[str], *, by: str, expires_at: datetime | None = None
    ) -> NewToken: ...
    def tokens(self) -> list[TokenInfo]: ...
    def revoke_token(self, name: str, *, by: str) -> TokenInfo: ...
    def audit(self, since: datetime | None = None) -> Iterator[AuditEntry]: ...


class RemoteAccess:
    """Implements AccessControl. Safe from several threads.

    A revocation is seen within FRESHNESS_S, an expiry at once. Refusals are not kept: a token that
    was refused is asked for again.
    """

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Principal]] = {}  # by hash: no secret stays here

    def principal(self, token: str | None) -> Principal:
        key = hashlib.sha256((token or "").encode()).hexdigest()
        now = time.monotonic()
        with self._lock:
            asked_at, known = self._known.get(key, (float("-inf"), None))
        if known is None or now - asked_at > FRESHNESS_S or _expired(known):
            known = self._client.whoami(token)
            with self._lock:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[key] = (now, known)
        return known

    def is_open(self) -> bool:
        try:
            return self.principal(None).name is None
        except Unauthenticated:
            return False

    def create(
        self, name: str, scopes: Iterable[str], *, by: str, expires_at: datetime | None = None
    ) -> NewToken:
        return self._client.create_token(name, scopes, by=by, expires_at=expires_at)

    def all(self) -> list[TokenInfo]:
        return self._client.tokens()

    def revoke(self, name: str, *, by: str) -> TokenInfo:
        return self._client.revoke_token(name, by=by)

    def entries(self, since: datetime | None = None) -> Iterator[AuditEntry]:
        return self._client.audit(since)


def _expired(principal: Principal) -> bool:
    return principal.expires_at is not None and principal.expires_at <= datetime.now(UTC)

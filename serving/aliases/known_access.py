"""Who a token stands for, also while the registry that knows it does not answer.

Every request asks the registry, or what it said lately. When that fails, or takes longer than a
second, the last good answer stays in use for `grace_s` after it was given: no revocation arrives
then, but to stop answering would be worse. A refusal and an expiry hold at once.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from hotswap.registry.domain.access import (
    AccessControl,
    AuditEntry,
    NewToken,
    Principal,
    TokenInfo,
)
from hotswap.registry.domain.errors import HotswapError, Unavailable
from hotswap.serving.aliases.deadline import Deadline

MAX_KNOWN = 4096
# After a failure the others use what is known for this long.
RETRY_S = 1.0


@dataclass(slots=True)
class _Known:
    """The answer to the latest question: None is a refusal."""

    principal: Principal | None
    asked_at: float
    ask_at: float


class KnownAccess:
    """Implements AccessControl over another one. Keeps hashes of tokens, and no token.

    Invariant: a token that was refused is never accepted again without an answer that says so.
    Thread-safe.
    """

    def __init__(
        self,
        access: AccessControl,
        *,
        grace_s: float,
        deadline: Deadline | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = access
        self._grace_s = grace_s
        self._deadline = deadline or Deadline()
        self._now = now
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._revoked_at = float("-inf")

    def principal(self, token: str | None) -> Principal:
        """Raises Unavailable only when nothing is known of the token, or for too long."""
        key = hashlib.sha256((token or "").encode(errors="surrogatepass")).hexdigest()
        with self._lock:
            known = self._known.get(key)
        principal = None if known is None else self._usable(known)
        if known is None or principal is None:
            return self._ask(key, token)
        if self._now() < known.ask_at:
            return principal
        try:
            return self._deadline.call(lambda: self._ask(key, token))
        except Unavailable:
            known.ask_at = self._now() + RETRY_S
            return principal

    def is_open(self) -> bool:
        return self._access.is_open()

    def create(
        self, name: str, scopes: Iterable[str], *, by: str, expires_at: datetime | None = None
    ) -> NewToken:
        return self._access.create(name, scopes, by=by, expires_at=expires_at)

    def all(self) -> list[TokenInfo]:
        return self._access.all()

    def revoke(self, name: str, *, by: str) -> TokenInfo:
        """Nothing that is known of any token is used before it is asked for again."""
        try:
            return self._access.revoke(name, by=by)
        finally:
            with self._lock:
                self._known.clear()
                self._revoked_at = self._now()

    def entries(self, since: datetime | None = None) -> Iterator[AuditEntry]:
        return self._access.entries(since)

    def _usable(self, known: _Known) -> Principal | None:
        """Whom the token stands for as long as it has neither expired nor been known too long."""
        principal = known.principal
        if principal is None or self._now() - known.asked_at > self._grace_s:
            return None
        has_expired = principal.expires_at is not None and principal.expires_at <= datetime.now(UTC)
        return None if has_expired else principal

    def _ask(self, key: str, token: str | None) -> Principal:
        asked_at = self._now()
        try:
            principal = self._access.principal(token)
        except Unavailable:
            raise
        except HotswapError:
            self._keep(key, None, asked_at)
            raise
        self._keep(key, principal, asked_at)
        return principal

    def _keep(self, key: str, principal: Principal | None, asked_at: float) -> None:
        """Unless something later is known: an answer may be late. A refusal is kept only of a token
        that was known, so that made-up tokens push no other out."""
        with self._lock:
            known = self._known.get(key)
            is_late = asked_at < max(self._revoked_at, known.asked_at if known else asked_at)
            if is_late or (principal is None and known is None):
                return
            self._known[key] = _Known(principal, asked_at, asked_at)
            self._known.move_to_end(key)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)

"""Access control of a registry that runs elsewhere: it is asked; answers are kept for a second."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from urllib.parse import quote

import httpx

from hotswap.registry.domain.access import AuditEntry, NewToken, Principal, TokenInfo
from hotswap.registry.domain.errors import Unauthenticated
from hotswap.registry.http.transport import Bearer, HttpTransport, lines_of
from hotswap.registry.storage.recent import Recent

FRESHNESS_S = 1.0
MAX_KNOWN = 4096


class RemoteAccess:
    """Implements AccessControl. Safe from several threads.

    A revocation is seen within FRESHNESS_S, an expiry at once. Refusals are not kept: a token that
    was refused is asked for again.
    """

    def __init__(self, http: HttpTransport) -> None:
        self._http = http
        # By hash: no secret stays here.
        self._known: Recent[str, Principal] = Recent(FRESHNESS_S, MAX_KNOWN)

    def principal(self, token: str | None) -> Principal:
        key = hashlib.sha256((token or "").encode()).hexdigest()
        known = self._known.get(key)
        if known is None or _expired(known):
            mark = self._known.mark()
            known = self._whoami(token)
            self._known.keep(key, known, mark)
        return known

    def is_open(self) -> bool:
        try:
            return self.principal(None).name is None
        except Unauthenticated:
            return False

    def create(
        self, name: str, scopes: Iterable[str], *, by: str, expires_at: datetime | None = None
    ) -> NewToken:
        expires = None if expires_at is None else expires_at.isoformat()
        body = {"name": name, "scopes": list(scopes), "by": by, "expires_at": expires}
        return self._http.post(NewToken, "/v1/tokens", body)

    def all(self) -> list[TokenInfo]:
        return self._http.get_list(TokenInfo, "/v1/tokens", "tokens")

    def revoke(self, name: str, *, by: str) -> TokenInfo:
        return self._http.post(TokenInfo, f"/v1/tokens/{quote(name, safe='')}/revoke", {"by": by})

    def entries(self, since: datetime | None = None) -> Iterator[AuditEntry]:
        params = {} if since is None else {"since": since.isoformat()}
        with self._http.stream("/v1/audit", params) as response:
            for line in lines_of(response):
                with self._http.understood(response):
                    entry = AuditEntry.model_validate_json(line)
                yield entry

    def _whoami(self, token: str | None) -> Principal:
        """Whose token this is, not our own one; raises Unauthenticated."""
        auth = httpx.Auth() if token is None else Bearer(token)
        return self._http.read(Principal, self._http.get("/v1/whoami", auth=auth))


def _expired(principal: Principal) -> bool:
    return principal.expires_at is not None and principal.expires_at <= datetime.now(UTC)

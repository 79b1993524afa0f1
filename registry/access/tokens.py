"""Tokens: made once, shown once, stored hashed, revoked for good.

A token reads `hs_<name>_<64 hex>`. The store keeps SHA-256 of the whole text: the secret is 256
random bits, so there is nothing to guess and a slow hash would only slow every request. A token is
a record in the object store, and its revocation another, both written once: losing the catalog
loses no token, and nothing that is rebuilt brings a revoked one back.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hotswap.registry.access.audit import AuditLog
from hotswap.registry.domain.access import (
    ANYONE,
    MAX_SCOPES,
    AuditEntry,
    NewToken,
    Principal,
    TokenInfo,
    check_scope,
)
from hotswap.registry.domain.errors import (
    BlobCorrupted,
    InvalidRequest,
    TokenExists,
    TokenNotFound,
    Unauthenticated,
)
from hotswap.registry.domain.layout import TOKENS, parse_token_key, revocation_key, token_key
from hotswap.registry.domain.values import ValueObject, first_problem
from hotswap.registry.storage.objects import ObjectMissing, ObjectStore
from hotswap.registry.storage.recent import Recent

RecordT = TypeVar("RecordT", bound=BaseModel)

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?")
_TEXT = re.compile(r"hs_([a-z0-9.-]{1,64})_[0-9a-f]{64}")
_HOW = "send `Authorization: Bearer TOKEN`; the commands read it from HOTSWAP_REGISTRY_TOKEN"


class TokenRecord(ValueObject):
    """What is stored of a token. Never the secret."""

    name: str
    sha256: str
    scopes: tuple[str, ...]
    created_by: str
    created_at: datetime
    expires_at: datetime | None


class Revocation(ValueObject):
    revoked_by: str
    revoked_at: datetime


class Tokens:
    """Implements AccessControl over the store. Safe from several threads.

    Revoking through this object, and the first token, are seen at once; through another process
    within `freshness_s`.
    A store in which a token was ever made is closed for good: revoking the last one opens nothing.
    """

    def __init__(self, store: ObjectStore, audit: AuditLog, *, freshness_s: float = 1.0) -> None:
        self._store = store
        self._audit = audit
        self._freshness_s = freshness_s
        self._lock = threading.Lock()
        self._records: dict[str, TokenRecord] = {}  # by name; a record never changes
        self._not_revoked: Recent[str, bool] = Recent(freshness_s)
        self._revoked: set[str] = set()
        self._closed = False
        self._seen_open = float("-inf")

    def create(
        self, name: str, scopes: Iterable[str], *, by: str, expires_at: datetime | None = None
    ) -> NewToken:
        """Make a token; raises TokenExists, or InvalidRequest for a name, scope or time."""
        now = datetime.now(UTC)
        wanted = _check_new(name, tuple(dict.fromkeys(scopes)), expires_at, now)
        text = f"hs_{name}_{secrets.token_hex(32)}"
        record = TokenRecord(
            name=name,
            sha256=_hash(text),
            scopes=wanted,
            created_by=by,
            created_at=now,
            expires_at=expires_at,
        )
        key = token_key(name)
        data = _json(record)
        # The hash is random, so it shows whether a create succeeded whose answer was lost.
        if not self._store.create(key, data) and self._read(key) != data:
            raise TokenExists(
                f"there is, or was, a token {name!r}; names are not used twice, so that the audit "
                f"log stays clear; give another name (example: '{name}-2')"
            )
        with self._lock:
            self._closed = True
        after = {"scopes": list(wanted), "expires_at": expires_at and expires_at.isoformat()}
        self._audit.record("token.create", name, who=by, after=after)
        return NewToken(token=text, **_info(record, None).model_dump())

    def all(self) -> list[TokenInfo]:
        """Every token ever made, in order of name."""
        names = sorted(n for key in self._store.list(TOKENS) if (n := parse_token_key(key)))
        return [self._info(name) for name in names]

    def revoke(self, name: str, *, by: str) -> TokenInfo:
        """Make the token worthless for good; revoking it again changes nothing.

        Raises TokenNotFound.
        """
        self._record(name)
        revocation = Revocation(revoked_by=by, revoked_at=datetime.now(UTC))
        created = self._store.create(revocation_key(name), _json(revocation))
        with self._lock:
            self._revoked.add(name)
        if created:
            self._audit.record("token.revoke", name, who=by, before="active", after="revoked")
        return self._info(name)

    def entries(self, since: datetime | None = None) -> Iterator[AuditEntry]:
        return self._audit.entries(since)

    def is_open(self) -> bool:
        with self._lock:
            if self._closed:
                return False
            if time.monotonic() - self._seen_open < self._freshness_s:
                return True
        now = time.monotonic()
        closed = next(iter(self._store.list(TOKENS)), None) is not None
        with self._lock:
            self._closed = self._closed or closed
            self._seen_open = now
            return not self._closed

    def principal(self, token: str | None) -> Principal:
        if self.is_open():
            return ANYONE
        if token is None:
            raise Unauthenticated(f"this server needs a token and none was sent; {_HOW}")
        match = _TEXT.fullmatch(token)
        record = self._known(match[1]) if match else None
        if record is None or not hmac.compare_digest(record.sha256, _hash(token)):
            raise Unauthenticated(f"the token that was sent is not one of this server; {_HOW}")
        if record.expires_at is not None and record.expires_at <= datetime.now(UTC):
            raise Unauthenticated(
                f"token {record.name!r} expired at {record.expires_at:%Y-%m-%d %H:%M:%S} UTC; "
                "ask an admin for a new one"
            )
        self._refuse_revoked(record.name)
        return Principal(name=record.name, scopes=record.scopes, expires_at=record.expires_at)

    def _refuse_revoked(self, name: str) -> None:
        with self._lock:
            revoked = name in self._revoked
        if not revoked and self._not_revoked.get(name):
            return
        mark = self._not_revoked.mark()
        if revoked or self._read(revocation_key(name)) is not None:
            raise Unauthenticated(f"token {name!r} was revoked; ask an admin for a new one")
        self._not_revoked.keep(name, True, mark)

    def _known(self, name: str) -> TokenRecord | None:
        try:
            return self._record(name)
        except (TokenNotFound, InvalidRequest):
            return None

    def _record(self, name: str) -> TokenRecord:
        with self._lock:
            if (known := self._records.get(name)) is not None:
                return known
        data = self._read(token_key(_check_name(name)))
        if data is None:
            raise TokenNotFound(f"there is no token {name!r}; `hotswap token ls` shows all")
        record = _parse(TokenRecord, data, token_key(name))
        with self._lock:
            self._records[name] = record
        return record

    def _info(self, name: str) -> TokenInfo:
        key = revocation_key(name)
        data = self._read(key)
        return _info(self._record(name), None if data is None else _parse(Revocation, data, key))

    def _read(self, key: str) -> bytes | None:
        try:
            return b"".join(self._store.open(key))
        except ObjectMissing:
            return None


def _check_name(name: str) -> str:
    if _NAME.fullmatch(name) is None or ".." in name:
        raise InvalidRequest(
            f"{name[:80]!r} is not a token name; use 1 to 64 lower-case letters, digits, '.' or "
            "'-' (example: 'ci')",
            param="name",
        )
    return name


def _check_new(
    name: str, scopes: tuple[str, ...], expires_at: datetime | None, now: datetime
) -> tuple[str, ...]:
    _check_name(name)
    if not 1 <= len(scopes) <= MAX_SCOPES:
        raise InvalidRequest(f"{len(scopes)} scopes; give 1 to {MAX_SCOPES}", param="scopes")
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= now):
        raise InvalidRequest(
            f"expires_at is {expires_at.isoformat()}; give a time to come, with its zone",
            param="expires_at",
        )
    return tuple(check_scope(scope) for scope in scopes)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _json(record: BaseModel) -> bytes:
    return json.dumps(record.model_dump(mode="json"), indent=1).encode()


def _info(record: TokenRecord, revocation: Revocation | None) -> TokenInfo:
    revoked = {} if revocation is None else revocation.model_dump()
    return TokenInfo(**record.model_dump(exclude={"sha256"}), **revoked)


def _parse(kind: type[RecordT], data: bytes, key: str) -> RecordT:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise BlobCorrupted(
            f"{key} is not a token's record: {first_problem(error)}; restore the object"
        ) from None

"""Who may do what, as values: scopes, principals, tokens and the log of changes.

A scope is `verb:pattern`. In a pattern `*` stands for any characters, '/' included:

    push:team/*          add versions to names below team/, also by training them on the server
    pull:*               read every adapter, its versions, aliases and history
    move:team/sql@prod   move this alias, or roll it back; without '@…' every alias of the names
    release:team/*@prod  the same for protected aliases, which `move` does not cover
    infer:team/*         complete with these adapters; the base is named like an adapter
    admin                everything
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, Protocol

from hotswap.registry.domain.errors import Forbidden, InvalidRequest
from hotswap.registry.domain.values import ValueObject


class AuditEntry(ValueObject):
    """One change. `what` is a reference, an alias or a token; `before` is None for what is new."""

    at: datetime
    who: str
    action: str
    what: str
    before: Any = None
    after: Any = None
    why: str = ""
    request_id: str = ""


Verb = Literal["push", "pull", "move", "release", "infer", "admin"]


_SCOPE = re.compile(r"(push|pull|infer):[A-Za-z0-9._/*-]{1,200}")


_ALIASES = r"[A-Za-z0-9._/*-]{1,200}(@[a-z0-9._*-]{1,64})?"


_ALIAS_SCOPE = re.compile(rf"(move|release):{_ALIASES}")


ADMIN: Final = "admin"


MAX_SCOPES = 64


def check_scope(text: str) -> str:
    """Return `text` if it is a scope; raises InvalidRequest otherwise."""
    if text != ADMIN and not _SCOPE.fullmatch(text) and not _ALIAS_SCOPE.fullmatch(text):
        raise InvalidRequest(
            f"{text[:80]!r} is not a scope; give 'push:PATTERN', 'pull:PATTERN', 'infer:PATTERN', "
            "'move:PATTERN[@ALIAS]', 'release:PATTERN[@ALIAS]' or 'admin' (example: 'push:team/*')",
            param="scopes",
        )
    return text


class Principal(ValueObject):
    """Who asks. `name` is the token's name; None when the server is open and asks for no token."""

    name: str | None
    scopes: tuple[str, ...]
    expires_at: datetime | None = None

    def allows(self, verb: Verb, target: str | None = None) -> bool:
        """Whether a scope covers the verb on `target` (a name, or `name@alias` for moves).

        Without a target: whether the verb is allowed on anything at all.
        """
        for scope in self.scopes:
            own, _, pattern = scope.partition(":")
            if scope == ADMIN or (own == verb and (target is None or covers(pattern, target))):
                return True
        return False

    def require(self, verb: Verb, target: str | None = None) -> None:
        """Raises Forbidden, naming the scope that is missing."""
        if not self.allows(verb, target):
            missing = verb if verb == ADMIN else f"{verb}:{target or '…'}"
            raise Forbidden(
                f"token {self.name!r} lacks the scope {missing!r}; it has "
                f"{', '.join(self.scopes)}; ask an admin for a token with that scope",
                scope=missing,
            )

    def may_name(self, adapter: str) -> bool:
        """Whether the adapter's name may be shown: a scope covers it for some verb."""
        verbs: tuple[Verb, ...] = ("pull", "infer", "push")
        return any(self.allows(verb, adapter) for verb in verbs)

    def actor(self, said: str) -> str:
        """Who goes into the records: the token's name, or on an open server what was said."""
        return self.name or said


ANYONE = Principal(name=None, scopes=(ADMIN,))


class TokenInfo(ValueObject):
    """What is shown of a token: all but its hash."""

    name: str
    scopes: tuple[str, ...]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_by: str | None = None
    revoked_at: datetime | None = None

    def state(self, now: datetime) -> str:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class NewToken(TokenInfo):
    """The answer to its creation, the only one that carries the token itself."""

    token: str


class AccessControl(Protocol):
    """Tokens and the log of what was done with them. In process it reads the store; over HTTP it
    asks the registry. Both raise the same errors."""

    def principal(self, token: str | None) -> Principal:
        """Whose token this is; ANYONE while no token was ever made.

        Raises Unauthenticated when a token is needed and this is none, or no longer one.
        """
        ...

    def is_open(self) -> bool:
        """Whether everyone may do everything, because no token was ever made."""
        ...

    def create(
        self, name: str, scopes: Iterable[str], *, by: str, expires_at: datetime | None = None
    ) -> NewToken:
        """Make a token; raises TokenExists, or InvalidRequest for a name, scope or time."""
        ...

    def all(self) -> list[TokenInfo]:
        """Every token ever made, in order of name."""
        ...

    def revoke(self, name: str, *, by: str) -> TokenInfo:
        """Make the token worthless for good; raises TokenNotFound."""
        ...

    def entries(self, since: datetime | None = None) -> Iterator[AuditEntry]:
        """The audit log from `since` on, in order of time."""
        ...


def is_alias_pattern(text: str) -> bool:
    """Whether it is a pattern of names or of `name@alias`."""
    return re.fullmatch(_ALIASES, text) is not None


def covers(pattern: str, target: str) -> bool:
    """Whether `target` is one of the names (or `name@alias`) the pattern stands for."""
    names, _, aliases = pattern.partition("@")
    name, _, alias = target.partition("@")
    return _matches(names, name) and (not aliases or _matches(aliases, alias))


def _matches(pattern: str, text: str) -> bool:
    return _compiled(pattern).fullmatch(text) is not None


@lru_cache(1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in re.split(r"\*+", pattern)))

"""Names, references, versions and alias moves: the nouns users type and read. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import InvalidDigest, InvalidReference
from hotswap.registry.domain.signatures import Signature
from hotswap.registry.domain.values import ValueObject

DEFAULT_ALIAS = "prod"
MAX_NAME_LENGTH = 128

StateVerb = Literal["delete", "undelete", "yank", "unyank"]

_SEGMENT = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,3}}")
_ALIAS = re.compile(r"[a-z](?:[a-z0-9._-]{0,62}[a-z0-9])?")
# Path words of the HTTP API and the suffix of record keys: a name may not contain them, or
# `/v1/adapters/<name>/versions` and `versions/<name>/<number>.json` could be read two ways.
_RESERVED_SEGMENTS = frozenset({"versions", "aliases"})


def check_name(name: str) -> str:
    """Return `name` if it is a valid adapter name; raises InvalidReference otherwise."""
    segments = name.split("/")
    if (
        len(name) > MAX_NAME_LENGTH
        or _NAME.fullmatch(name) is None
        or ".." in name
        or any(s in _RESERVED_SEGMENTS or s.endswith(".json") for s in segments)
    ):
        raise InvalidReference(
            f"{name[:140]!r} is not an adapter name; use one to four segments separated by '/', "
            "each of lower-case letters, digits, '.', '_' or '-', starting and ending with a "
            f"letter or digit, not 'versions', 'aliases' or '*.json', at most {MAX_NAME_LENGTH} "
            "characters in all (example: 'team/sql')"
        )
    return name


def check_alias(alias: str) -> str:
    """Return `alias` if it is a valid alias name; raises InvalidReference otherwise."""
    if _ALIAS.fullmatch(alias) is None or ".." in alias or alias.endswith(".json"):
        raise InvalidReference(
            f"{alias[:80]!r} is not an alias name; use 1 to 64 lower-case letters, digits, '.', "
            "'_' or '-', starting with a letter (example: 'prod')"
        )
    return alias


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """What a user calls an adapter: `team/sql`, `team/sql:7`, `team/sql@prod`, `team/sql@sha256:…`.

    At most one of `number`, `alias` and `digest` is set; a bare name means the default alias.
    Prints back to the text it was parsed from.
    """

    name: str
    number: int | None = None
    alias: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> AdapterRef:
        """Read a reference; raises InvalidReference naming the part that is wrong."""
        if "@" in text:
            name, _, selector = text.partition("@")
            check_name(name)
            if selector.startswith("sha256:"):
                try:
                    return cls(name, digest=Digest.parse(selector))
                except InvalidDigest as error:
                    raise InvalidReference(f"in reference {text[:200]!r}: {error}") from None
            return cls(name, alias=check_alias(selector))
        name, colon, number = text.partition(":")
        check_name(name)
        if not colon:
            return cls(name)
        if re.fullmatch(r"[1-9][0-9]{0,9}", number) is None:
            raise InvalidReference(
                f"in reference {text[:200]!r}: {number[:50]!r} is not a version number; "
                "use a positive whole number (example: 'team/sql:7')"
            )
        return cls(name, number=int(number))

    @classmethod
    def parse_alias(cls, text: str) -> tuple[str, str]:
        """Name and alias of `team/sql@prod`, to move it; raises InvalidReference for all else.

        A bare name is refused: who forgets the alias must not release to the default one.
        """
        ref = cls.parse(text)
        if ref.alias is None:
            what = "names no alias" if str(ref) == ref.name else "names a version"
            raise InvalidReference(
                f"{text!r} {what}; name the alias that is moved (example: "
                f"'{ref.name}@{DEFAULT_ALIAS}')"
            )
        return ref.name, ref.alias

    @property
    def effective_alias(self) -> str | None:
        """The alias to look up; None when the reference names a number or a digest."""
        if self.number is not None or self.digest is not None:
            return None
        return self.alias or DEFAULT_ALIAS

    def __str__(self) -> str:
        if self.number is not None:
            return f"{self.name}:{self.number}"
        if self.alias is not None:
            return f"{self.name}@{self.alias}"
        if self.digest is not None:
            return f"{self.name}@{self.digest}"
        return self.name


class AdapterVersion(ValueObject):
    """One pushed version. `number` only grows within a name; the digest is its identity."""

    name: str
    number: int
    manifest_digest: Digest
    created_by: str
    created_at: datetime

    @property
    def ref(self) -> AdapterRef:
        return AdapterRef(self.name, number=self.number)


class AliasMove(ValueObject):
    """One row of an alias's append-only history; the row with the highest sequence is current."""

    name: str
    alias: str
    sequence: int
    from_number: int | None
    to_number: int
    moved_by: str
    moved_at: datetime
    why: str
    signature: Signature | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of `signatures.move_statement`. Left out of the JSON when there is none."""


class AliasTarget(ValueObject):
    """Where an alias points, with the move that made it so; the higher `move.sequence` is newer."""

    move: AliasMove
    version: AdapterVersion


class VersionState(ValueObject):
    """One row of a version's append-only states; without any it is active.

    active: everything. yanked: pulled by number or digest, no alias may move to it.
    deleted: not resolved, comes back with undelete. purged: its bytes may be gone; only a push
    of the same content brings it back.
    """

    name: str
    number: int
    sequence: int
    state: Literal["active", "yanked", "deleted", "purged"]
    changed_by: str
    changed_at: datetime
    why: str


class AdapterSummary(ValueObject):
    """One line of a listing: a name, its newest version and where its aliases point."""

    name: str
    num_versions: int
    latest_number: int
    aliases: dict[str, int]
    updated_at: datetime

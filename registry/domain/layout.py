"""The whole key layout of a store. Pure.

    store.json                                      the store's own id, made once
    formats/<number>.json                           a format that the store has had
    blobs/sha256/<first 2 hex>/<64 hex>             bytes by digest
    manifests/sha256/<64 hex>                       canonical manifest JSON by digest
    names/<name, '.' and '_' as '-'>.json           which of its spellings the name has
    versions/<name>/<number>.json                   one AdapterVersion
    aliases/<name>/<alias>/<sequence>.json          one AliasMove
    states/<name>/<number>/<sequence>.json          one VersionState: yanked, deleted, …
    events/<sequence>.json                          one Event: a record that is new, in one order
    signatures/<name>/<64 hex of the manifest>/<key id>.json    one key's VersionSignature
    condemned/<key of a blob or manifest>.json      sweep's mark: unreferenced since when
    unverified/<key of a blob>/<32 hex>.json        its bytes must be hashed before use
    pins/<32 hex>.json                              keys that a push is about to reference
    sweeps/<32 hex>.json                            keys that a sweep is deleting now
    servers/<server id>.json                        what a server holds, written again and again
    webhooks/<webhook>.json                         how far it has come, and its last attempts
    tokens/<token name>/token.json                  one TokenRecord: the hash, never the secret
    tokens/<token name>/revoked.json                its revocation
    audit/<yyyymmdd>/<hhmmss and microseconds>-<id>.json    one AuditEntry

Every object but those of servers and webhooks is written once. Only condemned, unverified, pins,
sweeps and servers (working notes that no catalog is made from), and what a sweep finds
unreferenced, are ever removed. `number` and `sequence` have 10 digits, count from 1 without gaps
and are claimed by creating the key. A name may contain '/', so record keys are read from the right;
no segment of a name ends in '.json', so a record is never another name's directory.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from hotswap.registry.domain.digests import Digest

STORE_KEY = "store.json"
FORMATS = "formats/"
NAMES = "names/"
VERSIONS = "versions/"
ALIASES = "aliases/"
STATES = "states/"
EVENTS = "events/"
SIGNATURES = "signatures/"
BLOBS = "blobs/"
MANIFESTS = "manifests/"
CONDEMNED = "condemned/"
UNVERIFIED = "unverified/"
PINS = "pins/"
SWEEPS = "sweeps/"
SERVERS = "servers/"
WEBHOOKS = "webhooks/"
TOKENS = "tokens/"
AUDIT = "audit/"
_SUFFIX = ".json"


def blob_key(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex[:2]}/{digest.hex}"


def manifest_key(digest: Digest) -> str:
    return f"manifests/sha256/{digest.hex}"


def format_key(number: int) -> str:
    return f"{FORMATS}{number:010}{_SUFFIX}"


def parse_format_key(key: str) -> int | None:
    """The number of a key below `formats/`; None for an object that is not ours."""
    number = key.removeprefix(FORMATS).removesuffix(_SUFFIX)
    return int(number) if number.isdecimal() and format_key(int(number)) == key else None


def name_key(name: str) -> str:
    """One key for all names that a reader could take for each other."""
    return f"{NAMES}{re.sub('[._-]+', '-', name)}{_SUFFIX}"


def version_key(name: str, number: int) -> str:
    return f"{VERSIONS}{name}/{number:010}{_SUFFIX}"


def move_key(name: str, alias: str, sequence: int) -> str:
    return f"{ALIASES}{name}/{alias}/{sequence:010}{_SUFFIX}"


def state_key(name: str, number: int, sequence: int) -> str:
    return f"{STATES}{name}/{number:010}/{sequence:010}{_SUFFIX}"


def event_key(sequence: int) -> str:
    return f"{EVENTS}{sequence:010}{_SUFFIX}"


def signatures_prefix(name: str, manifest: Digest) -> str:
    return f"{SIGNATURES}{name}/{manifest.hex}/"


def signature_key(name: str, manifest: Digest, key_id: str) -> str:
    return f"{signatures_prefix(name, manifest)}{key_id}{_SUFFIX}"


def condemned_key(key: str) -> str:
    return f"{CONDEMNED}{key}{_SUFFIX}"


def parse_condemned_key(mark: str) -> str:
    """The key of the blob or manifest that is condemned."""
    return mark.removeprefix(CONDEMNED).removesuffix(_SUFFIX)


def server_key(server_id: str) -> str:
    return f"{SERVERS}{server_id}{_SUFFIX}"


def webhook_key(webhook: str) -> str:
    return f"{WEBHOOKS}{webhook}{_SUFFIX}"


def unverified_prefix(digest: Digest) -> str:
    return f"{UNVERIFIED}{blob_key(digest)}/"


def unverified_key(digest: Digest, mark_id: str) -> str:
    return f"{unverified_prefix(digest)}{mark_id}{_SUFFIX}"


def parse_unverified_key(mark: str) -> str:
    """The key of the blob that is marked."""
    return mark.removeprefix(UNVERIFIED).rpartition("/")[0]


def digest_of_key(key: str) -> Digest:
    """The digest in the key of a blob or manifest; raises ValueError for any other key."""
    digest = Digest(key.rpartition("/")[2])
    if key not in (blob_key(digest), manifest_key(digest)):
        raise ValueError(f"{key!r} is not the key of a blob or a manifest")
    return digest


def token_key(token_name: str) -> str:
    return f"{TOKENS}{token_name}/token{_SUFFIX}"


def revocation_key(token_name: str) -> str:
    return f"{TOKENS}{token_name}/revoked{_SUFFIX}"


def parse_token_key(key: str) -> str | None:
    """The token's name of a key below `tokens/`; None for a revocation's key."""
    name, _, kind = key.removeprefix(TOKENS).partition("/")
    return name if kind == f"token{_SUFFIX}" else None


def audit_key(at: datetime, entry_id: str) -> str:
    """Keys sort as the entries' times do."""
    return f"{AUDIT}{at.astimezone(UTC):%Y%m%d/%H%M%S%f}-{entry_id}{_SUFFIX}"


def parse_version_key(key: str) -> tuple[str, int]:
    """Name and number of a key below `versions/`."""
    name, _, number = key.removeprefix(VERSIONS).removesuffix(_SUFFIX).rpartition("/")
    return name, int(number)


def parse_move_key(key: str) -> tuple[str, str, int]:
    """Name, alias and sequence of a key below `aliases/`."""
    rest, _, sequence = key.removeprefix(ALIASES).removesuffix(_SUFFIX).rpartition("/")
    name, _, alias = rest.rpartition("/")
    return name, alias, int(sequence)


def parse_state_key(key: str) -> tuple[str, int, int]:
    """Name, number and sequence of a key below `states/`."""
    rest, _, sequence = key.removeprefix(STATES).removesuffix(_SUFFIX).rpartition("/")
    name, _, number = rest.rpartition("/")
    return name, int(number), int(sequence)

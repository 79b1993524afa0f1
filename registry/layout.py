"""The whole key layout of a store. Pure.

    store.json                                      the store's own id, made once
    blobs/sha256/<first 2 hex>/<64 hex>             bytes by digest
    manifests/sha256/<64 hex>                       canonical manifest JSON by digest
    versions/<name>/<number>.json                   one AdapterVersion
    aliases/<name>/<alias>/<sequence>.json          one AliasMove

Every object is written once. `number` and `sequence` have 10 digits, count from 1 without gaps
and are claimed by creating the key. A name may contain '/', so record keys are read from the
right; no segment of a name ends in '.json', so a record is never another name's directory.
"""

from __future__ import annotations

from registry.digests import Digest

STORE_KEY = "store.json"
VERSIONS = "versions/"
ALIASES = "aliases/"
_SUFFIX = ".json"


def blob_key(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex[:2]}/{digest.hex}"


def manifest_key(digest: Digest) -> str:
    return f"manifests/sha256/{digest.hex}"


def version_key(name: str, number: int) -> str:
    return f"{VERSIONS}{name}/{number:010}{_SUFFIX}"


def move_key(name: str, alias: str, sequence: int) -> str:
    return f"{ALIASES}{name}/{alias}/{sequence:010}{_SUFFIX}"


def parse_version_key(key: str) -> tuple[str, int]:
    """Name and number of a key below `versions/`."""
    name, _, number = key.removeprefix(VERSIONS).removesuffix(_SUFFIX).rpartition("/")
    return name, int(number)


def parse_move_key(key: str) -> tuple[str, str, int]:
    """Name, alias and sequence of a key below `aliases/`."""
    rest, _, sequence = key.removeprefix(ALIASES).removesuffix(_SUFFIX).rpartition("/")
    name, _, alias = rest.rpartition("/")
    return name, alias, int(sequence)

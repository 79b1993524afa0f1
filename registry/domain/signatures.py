"""What a signature is and which bytes it covers. Pure; knows no cryptography.

A version's signature binds a name to a manifest, a move's an alias to a manifest at one sequence
number: neither can be copied to another name, alias or place in the history. Both cover canonical
JSON (RFC 8785), so that any program can make the same bytes.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Protocol

import rfc8785
from pydantic import AfterValidator, Field

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.values import ValueObject

KEY_PREFIX = "ed25519:"
KEY_BYTES = 32
SIGNATURE_BYTES = 64
MAX_SIGNATURES = 16


def _decoded(text: str, size_bytes: int, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    # Base64 has several texts for the same bytes; one key must have one text and one id.
    if len(data) != size_bytes or base64.b64encode(data).decode() != text:
        raise ValueError(f"expected {what}: base64 of {size_bytes} bytes")
    return data


def _check_key(text: str) -> str:
    if not text.startswith(KEY_PREFIX):
        raise ValueError(f"expected a public key like {KEY_PREFIX}BASE64, as `hotswap key` prints")
    _decoded(text.removeprefix(KEY_PREFIX), KEY_BYTES, f"a public key behind {KEY_PREFIX!r}")
    return text


def _check_value(text: str) -> str:
    _decoded(text, SIGNATURE_BYTES, "an Ed25519 signature")
    return text


PublicKey = Annotated[str, AfterValidator(_check_key)]


def key_text(data: bytes) -> str:
    """The public key as people and files write it."""
    return KEY_PREFIX + base64.b64encode(data).decode()


def key_bytes(key: str) -> bytes:
    return base64.b64decode(key.removeprefix(KEY_PREFIX))


def key_id(key: str) -> str:
    """32 hex digits that name the key where its text cannot stand."""
    return Digest.of(key_bytes(key)).hex[:32]


class Signature(ValueObject):
    """A public key and its signature of one statement; well-formed, which says nothing about
    whether it fits the statement or whether the key is trusted."""

    key: PublicKey
    value: Annotated[str, AfterValidator(_check_value)]

    @property
    def value_bytes(self) -> bytes:
        return base64.b64decode(self.value)


class MoveSignature(ValueObject):
    """The signature of an alias's move number `sequence`, and of no other."""

    sequence: int = Field(ge=1)
    signature: Signature


class VersionSignature(ValueObject):
    """The record of one key's signature of a version. `name` and manifest are what it covers."""

    name: str
    manifest_digest: Digest
    signature: Signature


class Signer(Protocol):
    """Whose key signs, wherever the key is. `public` names it."""

    @property
    def public(self) -> str: ...

    def sign_version(self, name: str, manifest: Digest) -> Signature: ...

    def sign_move(self, name: str, alias: str, sequence: int, to: Digest) -> MoveSignature: ...


def version_statement(name: str, manifest: Digest) -> bytes:
    """What a version's signature covers."""
    return rfc8785.dumps({"type": "hotswap.version.v1", "name": name, "manifest": str(manifest)})


def move_statement(name: str, alias: str, sequence: int, to: Digest) -> bytes:
    """What a move's signature covers; `to` is the digest of the target's manifest."""
    return rfc8785.dumps(
        {
            "type": "hotswap.move.v1",
            "name": name,
            "alias": alias,
            "sequence": sequence,
            "to": str(to),
        }
    )

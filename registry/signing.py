"""Ed25519 keys: made, kept in PEM files, used to sign and to verify. The only file that knows
the cryptography."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from hotswap.registry.domain.adapters import AliasMove
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import InvalidRequest, InvalidSettings, SignatureInvalid
from hotswap.registry.domain.signatures import (
    MAX_SIGNATURES,
    MoveSignature,
    Signature,
    VersionSignature,
    key_bytes,
    key_text,
    move_statement,
    version_statement,
)
from hotswap.registry.durable import new_file

_MODE = 0o600


class SigningKey:
    """A private key; what it signs verifies under `public`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key_text(key.public_key().public_bytes_raw())

    @classmethod
    def create(cls, path: Path) -> SigningKey:
        """Make a key and write it to the new file; raises InvalidSettings when there is one."""
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            # Never readable by others, not even before its bytes are written.
            with new_file(path, _MODE) as part:
                part.write_bytes(pem)
        except OSError as error:
            raise InvalidSettings(
                f"the key file {path} cannot be made: {error.strerror}; name a new file"
            ) from None
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a PEM file; raises InvalidSettings when it is no Ed25519 private key, or when
        others may read it."""
        try:
            mode, pem = path.stat().st_mode, path.read_bytes()
        except OSError as error:
            raise InvalidSettings(f"the key file {path} cannot be read: {error.strerror}") from None
        if mode & 0o077:
            raise InvalidSettings(
                f"the key file {path} may be used by others than its owner; `chmod 600 {path}`"
            )
        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidSettings(
                f"{path} is not an Ed25519 private key in PEM without a password; "
                "make one with `hotswap key new FILE`"
            )
        return cls(key)

    def sign_version(self, name: str, manifest: Digest) -> Signature:
        return self._sign(version_statement(name, manifest))

    def sign_move(self, name: str, alias: str, sequence: int, to: Digest) -> MoveSignature:
        signature = self._sign(move_statement(name, alias, sequence, to))
        return MoveSignature(sequence=sequence, signature=signature)

    def _sign(self, statement: bytes) -> Signature:
        value = base64.b64encode(self._key.sign(statement)).decode()
        return Signature(key=self.public, value=value)


def is_valid(signature: Signature, statement: bytes) -> bool:
    """Whether the signature's own key made it for this statement. Says nothing about trust."""
    try:
        Ed25519PublicKey.from_public_bytes(key_bytes(signature.key)).verify(
            signature.value_bytes, statement
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def check_version_signature(signature: Signature, name: str, manifest: Digest) -> None:
    """Raises SignatureInvalid."""
    if not is_valid(signature, version_statement(name, manifest)):
        raise _invalid(signature, f"{name!r} with manifest {manifest}")


def check_move_signature(
    signature: Signature, name: str, alias: str, sequence: int, to: Digest
) -> None:
    """Raises SignatureInvalid."""
    if not is_valid(signature, move_statement(name, alias, sequence, to)):
        raise _invalid(signature, f"move {sequence} of {name}@{alias} to manifest {to}")


def check_signatures(
    name: str, manifest: Digest, signatures: Sequence[Signature]
) -> list[VersionSignature]:
    """What is to be stored; raises SignatureInvalid, or InvalidRequest for too many."""
    if len(signatures) > MAX_SIGNATURES:
        raise InvalidRequest(
            f"a push brings {len(signatures)} signatures; send at most {MAX_SIGNATURES} at once",
            param="signatures",
        )
    for signature in signatures:
        check_version_signature(signature, name, manifest)
    return [
        VersionSignature(name=name, manifest_digest=manifest, signature=signature)
        for signature in signatures
    ]


def check_move(move: AliasMove, to: Digest) -> None:
    """Raises SignatureInvalid when the move is signed and its signature does not fit it."""
    if move.signature is not None:
        check_move_signature(move.signature, move.name, move.alias, move.sequence, to)


def _invalid(signature: Signature, what: str) -> SignatureInvalid:
    return SignatureInvalid(
        f"the signature by {signature.key} does not fit {what}: it was made for something else, or "
        "one of them was changed; sign again, or find out who changed it",
        key=signature.key,
    )

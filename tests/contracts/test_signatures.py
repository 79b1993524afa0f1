"""What every registry must do with signatures, in process and over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hotswap.registry.bundles.signed import MAX_ATTEMPTS, signed_by
from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import (
    AdapterNotFound,
    AliasConflict,
    AliasNotFound,
    InvalidRequest,
    SignatureInvalid,
)
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest, PushRequest
from hotswap.registry.domain.signatures import (
    MoveSignature,
    Signature,
    Signer,
    key_id,
    move_statement,
    version_statement,
)
from hotswap.registry.signing import SigningKey, is_valid
from tests.contracts.conftest import UNSIGNED
from tests.refusals import refused
from tests.registry.bundles import read_bundle

NAME = "team/sql"

# What these tests sign they sign by hand.
pytestmark = pytest.mark.parametrize("registry", UNSIGNED, indirect=True)


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "key.pem")


def push_version(
    registry: AdapterRegistry,
    directory: Path,
    seed: int,
    *,
    key: Signer | None = None,
    alias: str | None = None,
) -> AdapterVersion:
    bundle, manifest = read_bundle(directory / f"{seed}-{key is None}-{alias}", seed)
    return push(signed_by(key, registry), NAME, bundle, manifest, by="ann", alias=alias)


class Interrupted:
    """A Signer whose owner is slow: `act` runs right after each of the first `times` signatures of
    a move."""

    def __init__(self, key: SigningKey, act: Callable[[], object], times: int = 1) -> None:
        self.public = key.public
        self.sign_version = key.sign_version
        self._sign_move = key.sign_move
        self._act = act
        self._times = times

    def sign_move(self, name: str, alias: str, sequence: int, to: Digest) -> MoveSignature:
        signed = self._sign_move(name, alias, sequence, to)
        if self._times:
            self._times -= 1
            self._act()
        return signed


def test_signed_push_keeps_the_version_and_the_move_signed(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    version = push_version(registry, tmp_path, 1, key=key, alias="prod")
    digest = version.manifest_digest
    (signature,) = registry.versions.signatures(NAME, digest)
    assert signature.key == key.public
    assert is_valid(signature, version_statement(NAME, digest))
    move = registry.aliases.target(NAME, "prod").move
    assert move.signature is not None
    assert is_valid(move.signature, move_statement(NAME, "prod", 1, digest))
    assert registry.aliases.history(NAME, "prod") == registry.aliases.all(NAME) == [move]


def test_push_without_a_key_is_unsigned(registry: AdapterRegistry, tmp_path: Path) -> None:
    version = push_version(registry, tmp_path, 1, alias="prod")
    assert registry.versions.signatures(NAME, version.manifest_digest) == []
    assert registry.aliases.target(NAME, "prod").move.signature is None


def test_several_keys_sign_one_version_each_once(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    other = SigningKey.create(tmp_path / "other.pem")
    version = push_version(registry, tmp_path, 1)
    manifest = registry.versions.manifest(version.manifest_digest)
    for each in (key, other, key):
        signature = each.sign_version(NAME, manifest.digest)
        assert (
            registry.versions.commit(PushRequest(NAME, manifest, by="bob", signatures=(signature,)))
            == version
        )
    found = [signature.key for signature in registry.versions.signatures(NAME, manifest.digest)]
    assert found == sorted([key.public, other.public], key=key_id)


def test_signature_of_another_name_is_refused_and_no_version_is_made(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    version = push_version(registry, tmp_path, 1)
    manifest = registry.versions.manifest(version.manifest_digest)
    foreign = key.sign_version(NAME, manifest.digest)
    with refused(SignatureInvalid, "'other'"):
        registry.versions.commit(PushRequest("other", manifest, by="ann", signatures=(foreign,)))
    with pytest.raises(AdapterNotFound):
        registry.adapters.versions("other")
    assert registry.versions.signatures("other", manifest.digest) == []


def test_signature_that_names_another_key_is_refused(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    version = push_version(registry, tmp_path, 1)
    manifest = registry.versions.manifest(version.manifest_digest)
    other = SigningKey.create(tmp_path / "other.pem")
    made = key.sign_version(NAME, manifest.digest)
    with pytest.raises(SignatureInvalid):
        registry.versions.commit(
            PushRequest(
                NAME,
                manifest,
                by="ann",
                signatures=(Signature(key=other.public, value=made.value),),
            )
        )


def test_signature_of_a_move_without_an_alias_is_refused(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    _, manifest = read_bundle(tmp_path / "a")
    signed = key.sign_move(NAME, "prod", 1, manifest.digest)
    with refused(InvalidRequest, "alias"):
        registry.versions.commit(PushRequest(NAME, manifest, by="ann", move_signature=signed))


def test_move_signed_for_another_target_alias_or_name_is_refused(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    one, two = (push_version(registry, tmp_path, seed).manifest_digest for seed in (1, 2))
    for signed in (
        key.sign_move(NAME, "prod", 1, two),
        key.sign_move(NAME, "candidate", 1, one),
        key.sign_move("team/other", "prod", 1, one),
        MoveSignature(sequence=1, signature=key.sign_version(NAME, one)),
    ):
        with refused(SignatureInvalid, "move 1 of team/sql@prod"):
            registry.aliases.move(MoveRequest(NAME, "prod", 1, by="ann", signature=signed))
    with pytest.raises(AliasNotFound):
        registry.aliases.target(NAME, "prod")


def test_signed_move_is_made_at_its_number_only(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    one = push_version(registry, tmp_path, 1, alias="prod").manifest_digest
    two = push_version(registry, tmp_path, 2).manifest_digest
    for sequence in (1, 3):
        with refused(AliasConflict, f"move {sequence}"):
            registry.aliases.move(
                MoveRequest(
                    NAME, "prod", 2, by="ann", signature=key.sign_move(NAME, "prod", sequence, two)
                )
            )
        with pytest.raises(AliasConflict):
            registry.aliases.move(
                MoveRequest(
                    NAME,
                    "new",
                    1,
                    by="ann",
                    signature=key.sign_move(NAME, "new", sequence + 1, one),
                )
            )
    assert registry.aliases.target(NAME, "prod").move.to_number == 1


def test_move_is_signed_again_when_its_number_was_taken(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    for seed in (1, 2, 3):
        push_version(registry, tmp_path, seed)
    slow = Interrupted(key, lambda: registry.aliases.move(MoveRequest(NAME, "prod", 3, by="bob")))
    move = signed_by(slow, registry).aliases.move(MoveRequest(NAME, "prod", 2, by="ann"))
    assert (move.sequence, move.to_number, move.moved_by) == (2, 2, "ann")
    assert registry.aliases.target(NAME, "prod").move == move


def test_signing_again_ends(registry: AdapterRegistry, tmp_path: Path, key: SigningKey) -> None:
    for seed in (1, 2, 3):
        push_version(registry, tmp_path, seed)
    targets = iter([2, 3] * MAX_ATTEMPTS)
    never = Interrupted(
        key,
        lambda: registry.aliases.move(MoveRequest(NAME, "prod", next(targets), by="bob")),
        times=100,
    )
    with pytest.raises(AliasConflict):
        signed_by(never, registry).aliases.move(MoveRequest(NAME, "prod", 1, by="ann"))
    assert len(registry.aliases.history(NAME, "prod")) == MAX_ATTEMPTS


def test_signed_push_signs_its_move_again_when_the_number_was_taken(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    push_version(registry, tmp_path, 1)
    slow = Interrupted(key, lambda: registry.aliases.move(MoveRequest(NAME, "prod", 1, by="bob")))
    assert push_version(registry, tmp_path, 2, key=slow, alias="prod").number == 2
    assert [m.to_number for m in registry.aliases.history(NAME, "prod")] == [1, 2]


def test_move_to_where_the_alias_points_is_made_once_to_sign_it(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    signed = [
        signed_by(key, registry).aliases.move(MoveRequest(NAME, "prod", 1, by="ann"))
        for _ in range(2)
    ]
    assert signed[0] == signed[1] == registry.aliases.target(NAME, "prod").move
    assert (signed[0].sequence, signed[0].from_number) == (2, 1)
    assert registry.aliases.move(MoveRequest(NAME, "prod", 1, by="bob")) == signed[0]


def test_rollback_is_signed_too(registry: AdapterRegistry, tmp_path: Path, key: SigningKey) -> None:
    one = push_version(registry, tmp_path, 1, alias="prod", key=key).manifest_digest
    push_version(registry, tmp_path, 2, alias="prod", key=key)
    move = signed_by(key, registry).aliases.rollback(MoveRequest(NAME, "prod", by="ann"))
    assert (move.to_number, move.sequence) == (1, 3)
    assert move.signature is not None
    assert is_valid(move.signature, move_statement(NAME, "prod", 3, one))


def test_signed_rollback_does_not_roll_back_what_somebody_else_did(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    for seed in (1, 2, 3):
        push_version(registry, tmp_path, seed, alias="prod")
    slow = Interrupted(key, lambda: registry.aliases.rollback(MoveRequest(NAME, "prod", by="bob")))
    with pytest.raises(AliasConflict):
        signed_by(slow, registry).aliases.rollback(MoveRequest(NAME, "prod", by="ann"))
    assert [m.moved_by for m in registry.aliases.history(NAME, "prod")] == [
        "ann",
        "ann",
        "ann",
        "bob",
    ]


def test_verify_of_a_signed_version_is_intact(
    registry: AdapterRegistry, tmp_path: Path, key: SigningKey
) -> None:
    push_version(registry, tmp_path, 1, key=key, alias="prod")
    report = registry.versions.verify()
    # Three files, a manifest, a version's signature and a move's.
    assert (report.damage, report.num_objects) == ((), 6)

"""Keys in files, signatures in the store, and what damage to them looks like."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import ValidationError

from hotswap.registry.bundles.signed import signed_by
from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.errors import Forbidden, InvalidRequest, InvalidSettings
from hotswap.registry.domain.layout import signature_key
from hotswap.registry.domain.requests import PushRequest
from hotswap.registry.domain.signatures import (
    MAX_SIGNATURES,
    Signature,
    key_id,
    move_statement,
    version_statement,
)
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.signing import SigningKey, is_valid
from tests.refusals import refused
from tests.registry.bundles import make_bundle, read_bundle
from tests.registry.conftest import OpenRegistry
from tests.registry.test_cli import Shell, shell  # noqa: F401
from tests.servers import serving_app

NAME = "team/sql"


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "key.pem")


def push_signed(registry: Registry, tmp_path: Path, key: SigningKey, seed: int = 1) -> str:
    bundle, manifest = read_bundle(tmp_path / f"bundle-{seed}", seed)
    push(signed_by(key, registry), NAME, bundle, manifest, by="ann", alias="prod")
    return manifest.digest.hex


@pytest.mark.usefixtures("names_are_synced")
def test_key_file_is_for_its_owner_only_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new.pem"
    made = SigningKey.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SigningKey.load(path).public == made.public
    with refused(InvalidSettings, path):
        SigningKey.create(path)
    assert SigningKey.load(path).public == made.public


def test_key_file_that_others_may_read_is_refused(tmp_path: Path, key: SigningKey) -> None:
    (tmp_path / "key.pem").chmod(0o640)
    with refused(InvalidSettings, "chmod 600"):
        SigningKey.load(tmp_path / "key.pem")


def test_file_that_holds_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    other = generate_private_key(SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, data in (("ec.pem", pem), ("text.pem", b"no key")):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
        with refused(InvalidSettings, tmp_path / name, "hotswap key new"):
            SigningKey.load(tmp_path / name)
    with refused(InvalidSettings, tmp_path / "absent.pem"):
        SigningKey.load(tmp_path / "absent.pem")


def test_statements_are_canonical_json(key: SigningKey, tmp_path: Path) -> None:
    _, manifest = read_bundle(tmp_path / "bundle")
    digest = manifest.digest
    assert version_statement(NAME, digest) == (
        f'{{"manifest":"{digest}","name":"team/sql","type":"hotswap.version.v1"}}'.encode()
    )
    assert move_statement(NAME, "prod", 7, digest) == (
        f'{{"alias":"prod","name":"team/sql","sequence":7,"to":"{digest}",'
        '"type":"hotswap.move.v1"}'.encode()
    )


def test_signature_fits_its_statement_and_no_other(key: SigningKey, tmp_path: Path) -> None:
    digest = read_bundle(tmp_path / "bundle")[1].digest
    signature = key.sign_version(NAME, digest)
    assert is_valid(signature, version_statement(NAME, digest))
    assert not is_valid(signature, version_statement("team/sql2", digest))
    broken = bytearray(signature.value_bytes)
    broken[0] ^= 1
    changed = Signature(key=key.public, value=base64.b64encode(broken).decode())
    assert not is_valid(changed, version_statement(NAME, digest))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rsa:AAAA",
        "ed25519:",
        f"ed25519:{base64.b64encode(bytes(31)).decode()}",
        f"ed25519:{base64.b64encode(bytes(32)).decode()}\n",
        # The same bytes as another text: the last character has bits that nobody reads.
        f"ed25519:{'A' * 42}B=",
    ],
)
def test_key_of_another_form_is_not_one(text: str, key: SigningKey, tmp_path: Path) -> None:
    value = key.sign_version(NAME, read_bundle(tmp_path / "bundle")[1].digest).value
    with pytest.raises(ValidationError):
        Signature(key=text, value=value)


def test_malformed_signature_is_refused_over_http(
    open_registry: OpenRegistry, tmp_path: Path, key: SigningKey
) -> None:
    registry = open_registry()
    push_signed(registry, tmp_path, key)
    body = {"by": "x", "to": 1, "signature": {"sequence": 2, "signature": {"key": key.public}}}
    with serving_app(assemble([registry_plane(registry)])) as url:
        answer = httpx.post(f"{url}/v1/adapters/{NAME}/aliases/prod", json=body)
    assert answer.status_code == 400
    assert "signature.value" in answer.json()["error"]["message"]


def test_signatures_are_read_by_those_who_may_read_the_name(
    open_registry: OpenRegistry, tmp_path: Path, key: SigningKey
) -> None:
    registry = open_registry()
    push_signed(registry, tmp_path, key)
    version = registry.adapters.versions(NAME)[0]
    reader = registry.access.create("reader", ["pull:team/*"], by="root").token
    stranger = registry.access.create("stranger", ["pull:other", "push:*"], by="root").token
    with serving_app(assemble([registry_plane(registry)], registry.access)) as url:
        with RegistryClient(url, token=reader) as client:
            assert client.versions.signatures(NAME, version.manifest_digest)[0].key == key.public
            assert client.aliases.target(NAME, "prod").move.signature is not None
        with RegistryClient(url, token=stranger) as client:
            with refused(Forbidden, "pull:team/sql"):
                client.versions.signatures(NAME, version.manifest_digest)
            with refused(Forbidden, "pull:team/sql"):
                client.aliases.target(NAME, "prod")


def test_unsigned_record_looks_as_it_did_before_signatures(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    bundle, manifest = read_bundle(tmp_path / "bundle")
    push(open_registry(), NAME, bundle, manifest, by="ann", alias="prod")
    record = json.loads((tmp_path / f"store/aliases/{NAME}/prod/0000000001.json").read_bytes())
    assert set(record) == {
        "claim", "name", "alias", "sequence", "from_number", "to_number", "moved_by", "moved_at",
        "why",
    }  # fmt: skip


def test_catalog_made_again_from_the_store_has_the_signatures(
    open_registry: OpenRegistry, tmp_path: Path, key: SigningKey
) -> None:
    first = open_registry("first")
    push_signed(first, tmp_path, key)
    assert (
        open_registry("second").aliases.target(NAME, "prod").move
        == first.aliases.target(NAME, "prod").move
    )
    first.rebuild()
    assert first.aliases.target(NAME, "prod").move.signature is not None


def test_signature_is_in_the_audit_log_once(
    open_registry: OpenRegistry, tmp_path: Path, key: SigningKey
) -> None:
    registry = open_registry()
    digest = push_signed(registry, tmp_path, key)
    manifest = registry.versions.manifest(registry.adapters.versions(NAME)[0].manifest_digest)
    again = key.sign_version(NAME, manifest.digest)
    registry.versions.commit(PushRequest(NAME, manifest, by="bob", signatures=(again,)))
    signed = [e for e in registry.access.entries() if e.action == "sign"]
    assert [(e.what, e.after) for e in signed] == [(f"{NAME}@sha256:{digest}", key.public)]


def test_too_many_signatures_are_refused(
    open_registry: OpenRegistry, tmp_path: Path, key: SigningKey
) -> None:
    registry = open_registry()
    _, manifest = read_bundle(tmp_path / "bundle")
    many = [key.sign_version(NAME, manifest.digest)] * (MAX_SIGNATURES + 1)
    with refused(InvalidRequest, "16"):
        registry.versions.commit(PushRequest(NAME, manifest, by="ann", signatures=tuple(many)))


def test_verify_names_a_signature_that_was_copied_or_changed(
    open_registry: OpenRegistry, tmp_path: Path, key: SigningKey
) -> None:
    registry = open_registry()
    push_signed(registry, tmp_path, key)
    version = registry.adapters.versions(NAME)[0]
    where = signature_key(NAME, version.manifest_digest, key_id(key.public))
    stored = tmp_path / "store" / where
    good = stored.read_bytes()
    for data in (
        good.replace(b'"value": "', b'"value": "AAAA')[: len(good)],
        good.replace(b'"team/sql"', b'"team/xyz"'),
        good.replace(key.sign_version(NAME, version.manifest_digest).value.encode(),
                     key.sign_version("other", version.manifest_digest).value.encode()),
    ):  # fmt: skip
        stored.write_bytes(data)
        for report in (registry.versions.verify(), registry.versions.verify(version.ref)):
            assert [damage.key for damage in report.damage] == [where]
    stored.write_bytes(good)
    assert registry.versions.verify().damage == ()


def test_verify_names_a_move_that_was_put_in_another_place(
    open_registry: OpenRegistry, tmp_path: Path, key: SigningKey
) -> None:
    registry = open_registry()
    for seed in (1, 2):
        push_signed(registry, tmp_path, key, seed)
    folder = tmp_path / f"store/aliases/{NAME}/prod"
    first = (folder / "0000000001.json").read_text()
    (folder / "0000000003.json").write_text(first.replace('"sequence": 1', '"sequence": 3'))
    report = registry.versions.verify()
    assert [damage.key for damage in report.damage] == [f"aliases/{NAME}/prod/0000000003.json"]


def test_commands_sign_what_they_are_told_to(
    shell: Shell,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    _, output, note = shell.run("key", "new", "release.pem")
    public = output.strip()
    assert "secret" in note
    assert shell.ok("key", "show", "release.pem").strip() == public
    assert "File exists" in shell.fails("key", "new", "release.pem")
    for seed in (1, 2, 3):
        make_bundle(tmp_path / f"v{seed}", seed)
    shell.ok("push", "v1", "a", "--alias", "prod")
    shell.ok("push", "v2", "a", "--sign-key", "release.pem")
    shell.ok("alias", "set", "a@prod", "2", "--sign-key", "release.pem")
    monkeypatch.setenv("HOTSWAP_REGISTRY_SIGN_KEY", "release.pem")
    shell.ok("push", "v3", "a", "--alias", "prod")
    shell.ok("rollback", "a@prod", "--to", "1")
    moves = json.loads(shell.ok("alias", "history", "a@prod", "--json"))
    assert [m.get("signature", {}).get("key") for m in moves] == [None, public, public, public]
    assert "all intact" in shell.ok("store", "verify", "--all")
    assert public in shell.ok("alias", "history", "a@prod").splitlines()[2]
    assert f"signed:       by {public}" in shell.ok("show", "a:2")
    assert "signed:" not in shell.ok("show", "a:1")
    assert json.loads(shell.ok("show", "a:3", "--json"))["signatures"][0]["key"] == public
    monkeypatch.setenv("HOTSWAP_REGISTRY_SIGN_KEY", "absent.pem")
    assert "absent.pem cannot be read" in shell.fails("alias", "set", "a@prod", "2")

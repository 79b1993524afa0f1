"""What a server refuses to serve when the store, or who moves aliases, cannot be believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.signed import signed_by
from hotswap.registry.bundles.transfer import push
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion, AliasTarget
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import (
    BlobCorrupted,
    InvalidSettings,
    SignatureInvalid,
    Untrusted,
)
from hotswap.registry.domain.layout import manifest_key, move_key, signature_key, version_key
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest, PushRequest
from hotswap.registry.domain.signatures import key_id
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home, read_toml
from hotswap.registry.signing import SigningKey
from hotswap.registry.storage.local import LocalStore
from hotswap.serving.aliases.seen_moves import SeenMoves
from hotswap.serving.aliases.trust import Trust, TrustPolicy, TrustRule
from hotswap.serving.aliases.version_table import ResolvedRef
from hotswap.serving.errors import StalePointer
from hotswap.serving.http.app import Serving
from hotswap.serving.settings import ServingSettings
from tests.refusals import refused
from tests.registry.bundles import read_bundle
from tests.servers import serving_app

NAME = "team/sql"
PROD = AdapterRef(NAME, alias="prod")
Open = Callable[[], Registry]


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "key.pem")


@pytest.fixture
def other(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "other.pem")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def open_again(store: Path, tmp_path: Path) -> Iterator[Open]:
    """Opens the store as a registry does that has never seen it: with an empty catalog."""
    with ExitStack() as stack:
        names = iter(range(100))

        def opened() -> Registry:
            catalog = Catalog(f"sqlite:///{tmp_path}/catalog-{next(names)}.sqlite")
            found = Registry.open(LocalStore(store), catalog, freshness_s=0)
            stack.callback(found.close)
            return found

        yield opened


@pytest.fixture
def signed(open_again: Open) -> Registry:
    return open_again()


def push_signed(
    registry: Registry, tmp_path: Path, seed: int, key: SigningKey | None, name: str = NAME
) -> AdapterVersion:
    bundle, manifest = read_bundle(tmp_path / f"{name.replace('/', '-')}-{seed}", seed)
    return push(signed_by(key, registry), name, bundle, manifest, by="ann", alias="prod")


def rule(*keys: SigningKey, match: str = "team/*", require: str = "version move") -> TrustRule:
    return TrustRule.model_validate(
        {"match": match, "keys": [key.public for key in keys], "require": require.split()}
    )


def trust(registry: Registry, tmp_path: Path, *rules: TrustRule, seen: str = "seen") -> Trust:
    policy = TrustPolicy(rules=rules)
    return Trust(policy, registry, SeenMoves(tmp_path / seen), pauses_s=())


def resolve(trust: Trust, registry: Registry, ref: AdapterRef = PROD) -> AdapterVersion:
    return trust.verified(ref, pointer(registry, ref))


def pointer(registry: AdapterRegistry, ref: AdapterRef) -> ResolvedRef:
    """What the version table of a server has."""
    if (alias := ref.effective_alias) is None:
        return ResolvedRef(registry.versions.resolve(ref), 0)
    target = registry.aliases.target(ref.name, alias)
    return ResolvedRef(target.version, target.move.sequence)


def test_signed_version_and_move_are_served(
    signed: Registry, tmp_path: Path, key: SigningKey
) -> None:
    version = push_signed(signed, tmp_path, 1, key)
    server = trust(signed, tmp_path, rule(key))
    for ref in (PROD, AdapterRef(NAME), version.ref):
        assert resolve(server, signed, ref) == version


def test_server_beside_a_remote_registry_verifies_what_it_is_told(
    signed: Registry, tmp_path: Path, key: SigningKey, other: SigningKey
) -> None:
    version = push_signed(signed, tmp_path, 1, key)
    with serving_app(assemble([registry_plane(signed)])) as url, RegistryClient(url) as remote:
        policies = [TrustPolicy(rules=(rule(each),)) for each in (key, other)]
        trusting, doubting = (
            Trust(policy, remote, SeenMoves(tmp_path / "seen"), pauses_s=()) for policy in policies
        )
        assert trusting.verified(PROD, pointer(remote, PROD)) == version
        with refused(Untrusted, key.public):
            doubting.verified(PROD, pointer(remote, PROD))


def test_without_rules_nothing_is_required_and_nothing_is_written(
    signed: Registry, tmp_path: Path
) -> None:
    version = push_signed(signed, tmp_path, 1, None)
    assert resolve(trust(signed, tmp_path), signed) == version
    assert not (tmp_path / "seen").exists()


def test_name_that_no_rule_matches_needs_no_signature(
    signed: Registry, tmp_path: Path, key: SigningKey
) -> None:
    version = push_signed(signed, tmp_path, 1, None)
    assert resolve(trust(signed, tmp_path, rule(key, match="other/*")), signed) == version


def test_unsigned_version_is_refused_naming_the_trusted_keys(
    signed: Registry, tmp_path: Path, key: SigningKey, other: SigningKey
) -> None:
    version = push_signed(signed, tmp_path, 1, None)
    server = trust(signed, tmp_path, rule(key, other, require="version"))
    with refused(Untrusted) as refusal:
        resolve(server, signed, version.ref)
    for each in (key.public, other.public, NAME, str(version.manifest_digest)):
        assert each in refusal.value.message
    assert refusal.value.status == 422


def test_unsigned_move_is_refused_although_the_version_is_signed(
    signed: Registry, tmp_path: Path, key: SigningKey
) -> None:
    push_signed(signed, tmp_path, 1, key)
    version = push_signed(signed, tmp_path, 2, key)
    signed.aliases.move(MoveRequest(NAME, "prod", 1, by="mallory"))
    server = trust(signed, tmp_path, rule(key))
    with refused(Untrusted, "move 3 of team/sql@prod"):
        resolve(server, signed)
    assert resolve(server, signed, version.ref) == version


def test_key_that_is_not_trusted_is_named(
    signed: Registry, tmp_path: Path, key: SigningKey, other: SigningKey
) -> None:
    version = push_signed(signed, tmp_path, 1, other)
    for require in ("version", "move"):
        with pytest.raises(Untrusted) as refusal:
            resolve(trust(signed, tmp_path, rule(key, require=require)), signed)
        assert f"signed by {other.public} only" in refusal.value.message
        assert f"by {key.public}" in refusal.value.message
    assert resolve(trust(signed, tmp_path, rule(key, other)), signed) == version


def test_every_rule_that_matches_asks_for_a_key_of_its_own(
    signed: Registry, tmp_path: Path, key: SigningKey, other: SigningKey
) -> None:
    rules = (rule(key, require="version"), rule(other, match="*@prod", require="move"))
    version = push_signed(signed, tmp_path, 1, key)
    server = trust(signed, tmp_path, *rules)
    with refused(Untrusted, "move 1"):
        resolve(server, signed)
    signed_by(other, signed).aliases.move(MoveRequest(NAME, "prod", 1, by="release"))
    assert resolve(server, signed) == version


def test_signature_copied_to_another_name_is_refused(
    signed: Registry, tmp_path: Path, store: Path, key: SigningKey
) -> None:
    version = push_signed(signed, tmp_path, 1, key)
    copied = push_signed(signed, tmp_path, 1, None, name="team/other")
    assert copied.manifest_digest == version.manifest_digest
    source = store / signature_key(NAME, version.manifest_digest, key_id(key.public))
    target = store / signature_key("team/other", version.manifest_digest, key_id(key.public))
    target.parent.mkdir(parents=True)
    server = trust(signed, tmp_path, rule(key, require="version"))
    shutil.copy(source, target)
    with refused(BlobCorrupted, signature_key(NAME, version.manifest_digest, key_id(key.public))):
        resolve(server, signed, copied.ref)
    target.write_text(source.read_text().replace(f'"{NAME}"', '"team/other"'))
    with refused(SignatureInvalid, "'team/other'"):
        resolve(server, signed, copied.ref)


def test_replaced_manifest_is_refused(
    signed: Registry, tmp_path: Path, store: Path, key: SigningKey, open_again: Open
) -> None:
    version = push_signed(signed, tmp_path, 1, key)
    evil = push_signed(signed, tmp_path, 2, None, name="team/evil")
    record = store / version_key(NAME, 1)
    changed = record.read_text().replace(str(version.manifest_digest), str(evil.manifest_digest))
    record.write_text(changed)
    tampered = open_again()
    for require, kind in (("version", Untrusted), ("move", SignatureInvalid)):
        with pytest.raises(kind):
            resolve(trust(tampered, tmp_path, rule(key, require=require)), tampered)
    # The bytes under the signed digest cannot be others either.
    stored = store / manifest_key(version.manifest_digest)
    stored.write_bytes((store / manifest_key(evil.manifest_digest)).read_bytes())
    with pytest.raises(BlobCorrupted):
        signed.versions.manifest(version.manifest_digest)


def test_rollback_is_served(signed: Registry, tmp_path: Path, key: SigningKey) -> None:
    one, two = (push_signed(signed, tmp_path, seed, key) for seed in (1, 2))
    server = trust(signed, tmp_path, rule(key))
    assert resolve(server, signed) == two
    signed_by(key, signed).aliases.rollback(MoveRequest(NAME, "prod", by="ann"))
    assert resolve(server, signed) == one


@pytest.mark.parametrize("is_restarted", [False, True])
def test_old_pointer_that_is_put_back_is_refused_also_after_a_restart(
    signed: Registry,
    tmp_path: Path,
    store: Path,
    key: SigningKey,
    open_again: Open,
    is_restarted: bool,
) -> None:
    one, two = (push_signed(signed, tmp_path, seed, key) for seed in (1, 2))
    server = trust(signed, tmp_path, rule(key))
    assert resolve(server, signed) == two
    (store / move_key(NAME, "prod", 2)).unlink()
    if is_restarted:
        put_back = open_again()
        server = trust(put_back, tmp_path, rule(key))
    else:
        put_back = signed
        put_back.rebuild()
    assert put_back.versions.resolve(PROD) == one
    with refused(StalePointer, seen=2, got=1):
        resolve(server, put_back)
    # A server that has never seen the later move has nothing to compare with.
    fresh = trust(put_back, tmp_path, rule(key), seen="fresh")
    assert resolve(fresh, put_back) == one


def test_old_move_written_on_top_of_the_history_is_refused(
    signed: Registry, tmp_path: Path, store: Path, key: SigningKey, open_again: Open
) -> None:
    for seed in (1, 2):
        push_signed(signed, tmp_path, seed, key)
    first = (store / move_key(NAME, "prod", 1)).read_text()
    later = store / move_key(NAME, "prod", 3)
    later.write_text(first.replace('"sequence": 1', '"sequence": 3'))
    with refused(SignatureInvalid, "move 3 of team/sql@prod"):
        resolve(trust(signed, tmp_path, rule(key)), open_again())


def test_other_target_under_a_number_that_was_seen_is_refused(
    signed: Registry, tmp_path: Path, store: Path, key: SigningKey, open_again: Open
) -> None:
    one = push_signed(signed, tmp_path, 1, key)
    two = push_signed(signed, tmp_path, 2, key)
    assert resolve(trust(signed, tmp_path, rule(key)), signed) == two
    record = store / move_key(NAME, "prod", 2)
    twice = key.sign_move(NAME, "prod", 2, one.manifest_digest).signature
    document = json.loads(record.read_text())
    record.write_text(json.dumps({**document, "to_number": 1, "signature": twice.model_dump()}))
    again = open_again()
    with refused(StalePointer, seen=2, got=2):
        resolve(trust(again, tmp_path, rule(key)), again)


def test_move_that_is_refused_is_not_remembered(
    signed: Registry, tmp_path: Path, store: Path, key: SigningKey, open_again: Open
) -> None:
    version = push_signed(signed, tmp_path, 1, key)
    forged = store / move_key(NAME, "prod", 2)
    first = (store / move_key(NAME, "prod", 1)).read_text()
    forged.write_text(first.replace('"sequence": 1', '"sequence": 2'))
    server = trust(open_again(), tmp_path, rule(key))
    with pytest.raises(SignatureInvalid):
        resolve(server, signed)
    forged.unlink()
    healed = open_again()
    assert resolve(trust(healed, tmp_path, rule(key)), healed) == version


def test_one_valid_signature_by_a_trusted_key_is_enough(
    signed: Registry, tmp_path: Path, store: Path, key: SigningKey, other: SigningKey
) -> None:
    version = push_signed(signed, tmp_path, 1, key)
    manifest = signed.versions.manifest(version.manifest_digest)
    both = [other.sign_version(NAME, manifest.digest)]
    signed.versions.commit(PushRequest(NAME, manifest, by="bob", signatures=tuple(both)))
    for damaged in (key, other):
        place = store / signature_key(NAME, manifest.digest, key_id(damaged.public))
        good = place.read_text()
        wrong = damaged.sign_version("x", manifest.digest).value
        place.write_text(good.replace(damaged.sign_version(NAME, manifest.digest).value, wrong))
        server = trust(signed, tmp_path, rule(key, other, require="version"))
        assert resolve(server, signed) == version
        place.write_text(good)


def test_forged_move_to_the_version_that_was_verified_is_refused(
    signed: Registry, tmp_path: Path, key: SigningKey
) -> None:
    one, two = (push_signed(signed, tmp_path, seed, key) for seed in (1, 2))
    server = trust(signed, tmp_path, rule(key))
    assert resolve(server, signed) == two
    signed_by(key, signed).aliases.rollback(
        MoveRequest(NAME, "prod", by="ann")
    )  # this server is not asked meanwhile
    signed.aliases.move(MoveRequest(NAME, "prod", two.number, by="mallory"))
    with refused(Untrusted, "move 4"):
        resolve(server, signed)
    signed_by(key, signed).aliases.rollback(MoveRequest(NAME, "prod", by="ann"))
    assert resolve(server, signed) == one


class Lying(Registry):
    """Answers for every alias with the target of another adapter's."""

    def __init__(self, *store_and_catalog: Any, **options: Any) -> None:
        super().__init__(*store_and_catalog, **options)
        own = self.aliases.target
        self.aliases.target = lambda _, alias: own("team/other", alias)  # type: ignore


def test_signed_pointer_of_another_adapter_is_refused(
    store: Path, tmp_path: Path, key: SigningKey
) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path}/lying.sqlite")
    registry = Lying.open(LocalStore(store), catalog)
    push_signed(registry, tmp_path, 1, key)
    push_signed(registry, tmp_path, 2, key, name="team/other")
    with refused(SignatureInvalid, "move 1 of team/sql@prod"):
        resolve(trust(registry, tmp_path, rule(key, require="move")), registry)
    registry.close()


class Counting(Registry):
    """Counts what it is asked about targets and signatures."""

    num_asked = 0

    def __init__(self, *store_and_catalog: Any, **options: Any) -> None:
        super().__init__(*store_and_catalog, **options)
        self.aliases.target = self._counted(self.aliases.target)  # type: ignore
        self.versions.signatures = self._counted(self.versions.signatures)  # type: ignore

    def _counted(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.num_asked += 1
            return verb(*arguments)

        return counted


def test_what_was_verified_is_not_asked_for_again(
    store: Path, tmp_path: Path, key: SigningKey
) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path}/counting.sqlite")
    registry = Counting.open(LocalStore(store), catalog, freshness_s=0)
    assert isinstance(registry, Counting)
    server = trust(registry, tmp_path, rule(key))

    def num_asked() -> int:
        known, before = pointer(registry, PROD), registry.num_asked
        for _ in range(3):
            server.verified(PROD, known)
        return registry.num_asked - before

    for seed in (1, 2):
        push_signed(registry, tmp_path, seed, key)
        assert num_asked() == 2  # for the move, and for the version's signatures
    signed_by(key, registry).aliases.rollback(MoveRequest(NAME, "prod", by="ann"))
    assert num_asked() == 1
    registry.close()


class Replicas(Registry):
    """Two registries behind one address: the first question goes to the one that is behind."""

    behind: Registry

    def __init__(self, *store_and_catalog: Any, **options: Any) -> None:
        super().__init__(*store_and_catalog, **options)
        own = self.aliases.target

        def target(name: str, alias: str) -> AliasTarget:
            asked, self.behind = self.behind, self
            return own(name, alias) if asked is self else asked.aliases.target(name, alias)

        self.aliases.target = target  # type: ignore


def test_registry_that_is_behind_is_asked_again_before_it_counts_as_a_replay(
    store: Path, tmp_path: Path, key: SigningKey
) -> None:
    slow, fast = (
        kind.open(
            LocalStore(store), Catalog(f"sqlite:///{tmp_path}/{kind.__name__}"), freshness_s=1e9
        )
        for kind in (Registry, Replicas)
    )
    assert isinstance(fast, Replicas)
    fast.behind = slow
    push_signed(slow, tmp_path, 1, key)
    assert slow.aliases.target(NAME, "prod").move.sequence == 1
    two = push_signed(fast, tmp_path, 2, key)
    assert slow.aliases.target(NAME, "prod").move.sequence == 1
    SeenMoves(tmp_path / "seen").accept(NAME, "prod", 2, two.manifest_digest)
    policy = TrustPolicy(rules=(rule(key),))
    patient = Trust(policy, fast, SeenMoves(tmp_path / "seen"), pauses_s=(0,))
    assert resolve(patient, fast) == two
    slow.close()
    fast.close()


def test_alias_that_was_moved_after_it_was_resolved_gives_the_verified_target(
    signed: Registry, tmp_path: Path, key: SigningKey
) -> None:
    one, two = (push_signed(signed, tmp_path, seed, key) for seed in (1, 2))
    assert trust(signed, tmp_path, rule(key)).verified(PROD, ResolvedRef(one, 1)) == two


def test_only_the_highest_move_is_kept_on_disk(tmp_path: Path) -> None:
    seen = SeenMoves(tmp_path / "seen")
    for sequence in (1, 2, 5, 5):
        seen.accept(NAME, "prod", sequence, Digest.of(b"x"))
    kept = [path for path in (tmp_path / "seen").rglob("*.json") if path.is_file()]
    assert [path.name for path in kept] == ["0000000005.json"]
    with pytest.raises(StalePointer) as refusal:
        SeenMoves(tmp_path / "seen").accept(NAME, "prod", 4, Digest.of(b"x"))
    # What the message says to remove is what makes the server forget.
    Path(refusal.value.message.rpartition("remove ")[2]).unlink()
    seen.accept(NAME, "prod", 4, Digest.of(b"x"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[rules]]\nmatch='*'\nkeys=[]\nrequire=['version']", "rules.0.keys"),
        ("[[rules]]\nmatch='*'\nkeys=['ed25519:AAAA']\nrequire=['version']", "rules.0.keys.0"),
        ("[[rules]]\nmatch='a b'\nkeys=['KEY']\nrequire=['version']", "not a pattern"),
        ("[[rules]]\nmatch='*'\nkeys=['KEY']\nrequire=[]", "rules.0.require"),
        ("[[rules]]\nmatch='*'\nkeys=['KEY']\nrequire=['all']", "rules.0.require.0"),
        ("[[rules]]\nmatch='*'\nkeys=['KEY']\nrequire=['move']\nextra=1", "rules.0.extra"),
    ],
)
def test_broken_trust_file_is_an_error_that_names_file_and_key(
    tmp_path: Path, key: SigningKey, text: str, words: str
) -> None:
    path = tmp_path / "trust.toml"
    path.write_text(text.replace("KEY", key.public))
    with pytest.raises(InvalidSettings) as refusal:
        read_toml(path, TrustPolicy)
    assert "trust.toml" in refusal.value.message
    assert words in refusal.value.message


def test_server_serves_only_what_its_trust_file_allows(
    registry: Registry,
    serving: Serving,
    adapter_dirs: list[Path],
    tmp_path: Path,
    key: SigningKey,
) -> None:
    path = tmp_path / "trust.toml"
    path.write_text(
        f"[[rules]]\nmatch = '*'\nkeys = ['{key.public}']\nrequire = ['version', 'move']\n"
    )
    settings = ServingSettings(
        base=str(serving.base.path), max_loras=2, max_lora_rank=8, max_num_seqs=8,
        max_num_batched_tokens=64, prefill_chunk=16, kv_cache_tokens=2048, trust=path,
    )  # fmt: skip
    strict = Serving(settings, registry, Home(tmp_path / "strict")).inference.resolver
    bundle = Bundle.read(adapter_dirs[0])
    manifest = bundle.manifest()
    push(registry, "team/a", bundle, manifest, by="ann", alias="prod")
    assert serving.inference.resolver.resolve("team/a").adapters == ((manifest.digest, 1.0),)
    with refused(Untrusted, "move 1 of team/a@prod"):
        strict.resolve("team/a")
    push(signed_by(key, registry), "team/a", bundle, manifest, by="ann", alias="prod")
    assert strict.resolve("team/a").adapters == ((manifest.digest, 1.0),)
    assert strict.resolve(strict.servable.base_name).adapters == ()

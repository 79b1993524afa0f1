"""Protected aliases: what a policy asks, who may release, what a dry run tells and leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hotswap.registry.bundles.transfer import push
from hotswap.registry.connect import connect
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.errors import Forbidden, HotswapError, InvalidSettings, PolicyViolation
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.policy import ReleasePolicy, Rule
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import MoveRequest, PushRequest
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.http.client import RegistryClient
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home, RegistrySettings, read_toml
from hotswap.registry.storage.local import LocalStore
from tests.refusals import refused
from tests.registry.bundles import read_bundle
from tests.registry.conftest import OpenRegistry
from tests.registry.test_cli import Shell, shell  # noqa: F401
from tests.servers import serving_app

NAME = "team/sql"
DIGEST = f"sha256:{'ab' * 32}"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_bundle(tmp_path / "bundle")[1]


def rule(**conditions: object) -> Rule:
    return Rule.model_validate({"match": "team/*@prod", **conditions})


def failing(rule: Rule, manifest: Manifest, before: Manifest | None = None, why: str = "") -> str:
    replaced = None if before is None else (6, before)
    found = list(rule.judge(manifest, replaced, why))
    assert len(found) == 1
    assert found[0].holds is not bool(found[0].to_do)
    return "" if found[0].holds else f"{found[0].asked} / {found[0].found}"


def scored(manifest: Manifest, **metrics: float) -> Manifest:
    return manifest.model_copy(update={"metrics": metrics})


def test_metric_must_be_stated(manifest: Manifest) -> None:
    asks = rule(metrics=["em"])
    assert failing(asks, scored(manifest, em=0.0)) == ""
    assert failing(asks, scored(manifest, f1=0.5)) == "the metric em / it states f1=0.5"


@pytest.mark.parametrize(("value", "holds"), [(0.8, True), (0.79999, False), (1.0, True)])
def test_minimum_is_inclusive(manifest: Manifest, value: float, holds: bool) -> None:
    assert (failing(rule(min={"em": 0.8}), scored(manifest, em=value)) == "") is holds


def test_missing_metric_is_below_every_minimum(manifest: Manifest) -> None:
    assert "it states none" in failing(rule(min={"em": -1}), manifest)


@pytest.mark.parametrize(("value", "holds"), [(0.9, True), (0.83, True), (0.8299, False)])
def test_drop_is_measured_against_the_version_that_is_replaced(
    manifest: Manifest, value: float, holds: bool
) -> None:
    # In binary floating point 0.85 - 0.83 is above 0.02.
    asks, before = rule(max_drop={"em": 0.02}), scored(manifest, em=0.85)
    assert (failing(asks, scored(manifest, em=value), before) == "") is holds


def test_with_nothing_to_compare_the_metric_must_only_be_stated(manifest: Manifest) -> None:
    asks, new = rule(max_drop={"em": 0.0}), scored(manifest, em=0.1)
    assert failing(asks, new) == ""
    assert failing(asks, new, manifest) == ""
    assert "em at most 0 below no version" in failing(asks, manifest)
    assert "version 6, which states none" in failing(asks, manifest, manifest)


def test_base_is_compared_field_by_field(manifest: Manifest) -> None:
    base = manifest.base.model_copy(update={"weights_digest": DIGEST})
    trained = manifest.model_copy(update={"base": base})
    assert failing(rule(base={"weights_digest": DIGEST}), trained) == ""
    assert "is not stated" in failing(rule(base={"weights_digest": DIGEST}), manifest)
    assert failing(rule(base={"model_id": "tiny"}), manifest) == ""
    assert "model_id tiny" in failing(rule(base={"model_id": "large"}), manifest)


def test_what_cannot_be_served_is_refused_with_its_reasons(tmp_path: Path) -> None:
    _, other = read_bundle(tmp_path / "other", modules_to_save=["lm_head"])
    assert "modules_to_save" in failing(rule(servable=True), other)


def test_tag_is_asked_for_with_or_without_its_value(manifest: Manifest) -> None:
    tagged = manifest.model_copy(update={"tags": {"stage": "final"}})
    assert failing(rule(tags=["stage"]), tagged) == ""
    assert failing(rule(tags=["stage=final"]), tagged) == ""
    assert failing(rule(tags=["stage=draft"]), tagged) == "the tag stage=draft / stage=final"
    assert "no tag stage" in failing(rule(tags=["stage"]), manifest)


def test_reason_must_have_its_length_without_blanks_around(manifest: Manifest) -> None:
    asks = rule(why_min_length=5)
    assert failing(asks, manifest, why="12345") == ""
    assert "4 characters" in failing(asks, manifest, why="  1234  ")


def test_every_rule_that_matches_must_hold(manifest: Manifest) -> None:
    policy = ReleasePolicy(rules=(rule(metrics=["em"]), rule(match="*", tags=["x"]), rule()))
    assert [c.holds for c in policy.judge("team/sql", "prod", manifest, None, "")] == [False] * 2
    assert len(policy.judge("team/sql", "candidate", manifest, None, "")) == 1
    assert policy.judge("other", "prod", manifest, None, "")[0].rule == "*"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[rules]]\nmatch = 'a@prod'\nminn = {em = 1}", "rules.0.minn"),
        ("[[rules]]\nmatch = 'a@prod'\nmin = {em = nan}", "rules.0.min.em"),
        ("[[rules]]\nmatch = 'a@prod'\nmax_drop = {em = -0.1}", "rules.0.max_drop.em"),
        ("[[rules]]\nmatch = 'a b'", "not a pattern"),
        ("[[rules]]\nmetrics = ['em']", "rules.0.match"),
        ("[[rules]]\nmatch = 'a'\nbase = {}", "at least one of model_id"),
        ("[[rules]]\nmatch = 'a'\nbase = {weights_digest = 'x'}", "rules.0.base.weights_digest"),
        ("[rule]", "rule"),
        ("[[rules", "not TOML"),
    ],
)
def test_broken_file_is_an_error_that_names_file_and_key(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(InvalidSettings) as refusal:
        read_toml(path, ReleasePolicy)
    assert str(path) in refusal.value.message
    assert words in refusal.value.message


def test_policy_of_the_settings_is_read_when_a_store_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[[rules]]\nmatch = 'team/*@prod'\nmin = {em = 0.8}\n")
    home = Home(tmp_path / "home")
    settings = RegistrySettings(policy=path, url=str(tmp_path / "store"))
    with connect(None, settings, home) as registry:
        assert registry.aliases.policy().protects("team/sql", "prod")
    path.unlink()
    with refused(InvalidSettings, path), connect(None, settings, home):
        pass


POLICY = ReleasePolicy(
    rules=(rule(min={"em": 0.5}, max_drop={"em": 0.1}), rule(match="*@gold", why_min_length=5))
)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Registry]:
    with_policy = Registry.open(
        LocalStore(tmp_path / "store"),
        Catalog(f"sqlite:///{tmp_path}/policy.sqlite"),
        freshness_s=0,
        policy=POLICY,
    )
    yield with_policy
    with_policy.close()


@pytest.fixture(params=["in process", "over HTTP"])
def registry(request: pytest.FixtureRequest, opened: Registry) -> Iterator[AdapterRegistry]:
    if request.param == "in process":
        yield opened
        return
    with serving_app(assemble([registry_plane(opened)])) as url, RegistryClient(url) as client:
        yield client


def push_scored(
    registry: AdapterRegistry, tmp_path: Path, em: float, alias: str | None = None
) -> int:
    bundle, _ = read_bundle(tmp_path / f"{em}-{alias}", int(em * 100))
    manifest = bundle.manifest(metrics={"em": em})
    return push(registry, NAME, bundle, manifest, by="ann", alias=alias).number


def stored(tmp_path: Path) -> dict[str, bytes]:
    root = tmp_path / "store"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_dry_runs_write_nothing(registry: AdapterRegistry, tmp_path: Path) -> None:
    push_scored(registry, tmp_path, 0.8, "prod")
    push_scored(registry, tmp_path, 0.9, "prod")
    _, new = read_bundle(tmp_path / "new", 99)
    before = stored(tmp_path)
    for plan in (
        registry.aliases.plan_move(MoveRequest(NAME, "prod", 1, by="bob")),
        registry.aliases.plan_rollback(MoveRequest(NAME, "prod", by="bob")),
        registry.versions.plan(PushRequest(NAME, new, by="bob", alias="prod")),
        registry.versions.plan(PushRequest("never/pushed", new, by="bob", alias="prod")),
        registry.versions.plan(PushRequest(NAME, new, by="bob", alias="fresh")),
    ):
        assert plan.to_number in (1, 3)
    assert stored(tmp_path) == before


def test_refused_push_leaves_no_version(registry: AdapterRegistry, tmp_path: Path) -> None:
    push_scored(registry, tmp_path, 0.8, "prod")
    before = set(stored(tmp_path))
    with refused(PolicyViolation, "em at most 0.1", "version 1"):
        push_scored(registry, tmp_path, 0.6, "prod")
    assert [v.number for v in registry.adapters.versions(NAME)] == [1]
    assert all(key.startswith("blobs/") for key in set(stored(tmp_path)) - before)


class MovedInBetween(LocalStore):
    """Lets another actor move the alias right before the first claim of `key`."""

    def __init__(self, root: Path, key: str) -> None:
        super().__init__(root)
        self._key = key
        self.act: Callable[[], object] | None = None

    def create(self, key: str, data: bytes) -> bool:
        if key == self._key and (act := self.act) is not None:
            self.act = None
            act()
        return super().create(key, data)


def test_policy_is_judged_against_the_target_that_is_replaced(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    store = MovedInBetween(tmp_path / "store", f"aliases/{NAME}/prod/0000000002.json")
    catalog = Catalog(f"sqlite:///{tmp_path}/first.sqlite")
    ours = Registry.open(store, catalog, freshness_s=0, policy=POLICY)
    theirs = open_registry("other")
    push_scored(ours, tmp_path, 0.6, "prod")
    worse, better = push_scored(ours, tmp_path, 0.55), push_scored(ours, tmp_path, 0.9)
    assert ours.aliases.plan_move(MoveRequest(NAME, "prod", worse, by="ann")).allowed
    store.act = lambda: theirs.aliases.move(MoveRequest(NAME, "prod", better, by="bob"))
    with refused(PolicyViolation, f"version {better} (0.9)"):
        ours.aliases.move(MoveRequest(NAME, "prod", worse, by="ann"))
    assert [m.to_number for m in ours.aliases.history(NAME, "prod")] == [1, better]
    ours.close()


def test_policy_is_shown_to_admins_only(opened: Registry) -> None:
    admin, reader = (
        opened.access.create(name, scopes, by="root").token
        for name, scopes in (("admin", ["admin"]), ("reader", ["pull:*", "release:*"]))
    )
    with serving_app(assemble([registry_plane(opened)], opened.access)) as url:
        with RegistryClient(url, token=admin) as client:
            assert client.aliases.policy() == POLICY
        with RegistryClient(url, token=reader) as client, refused(Forbidden, "admin"):
            client.aliases.policy()


def test_protected_alias_needs_release_and_others_need_move(
    opened: Registry, tmp_path: Path
) -> None:
    for em in (0.8, 0.9):
        push_scored(opened, tmp_path, em, "prod")
    made = {
        verb: opened.access.create(verb, [f"{verb}:team/*", "push:team/*"], by="root").token
        for verb in ("move", "release")
    }
    with serving_app(assemble([registry_plane(opened)], opened.access)) as url:
        with RegistryClient(url, token=made["move"]) as mover:
            for verb in (
                lambda: mover.aliases.move(MoveRequest(NAME, "prod", 1, by="x")),
                lambda: mover.aliases.rollback(MoveRequest(NAME, "prod", by="x")),
                lambda: mover.aliases.plan_rollback(MoveRequest(NAME, "prod", by="x")),
                lambda: push_scored(mover, tmp_path, 0.95, "prod"),
            ):
                with refused(Forbidden, "release:team/sql@prod"):
                    verb()
            assert mover.aliases.move(MoveRequest(NAME, "candidate", 1, by="x")).moved_by == "move"
        with RegistryClient(url, token=made["release"]) as releaser:
            assert (
                releaser.aliases.rollback(MoveRequest(NAME, "prod", by="x")).moved_by == "release"
            )
            with refused(Forbidden, "move:team/sql@candidate"):
                releaser.aliases.move(MoveRequest(NAME, "candidate", 2, by="x"))
    assert [v.number for v in opened.adapters.versions(NAME)] == [1, 2]


def test_commands_tell_what_would_happen_and_why_not(
    shell: Shell,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[[rules]]\nmatch = '*@prod'\nmin = {em = 0.5}\nwhy_min_length = 5\n")
    monkeypatch.setenv("HOTSWAP_REGISTRY_POLICY", str(policy))
    read_bundle(tmp_path / "v1", 1)
    push_it = ("push", "v1", "a", "--alias", "prod", "--why", "tested")
    status, output, errors = shell.run(*push_it, "--dry-run")
    assert (status, errors) == (1, "")
    assert "a@prod would not move to version 1" in output
    assert "em of at least 0.5" in output
    assert "rule '*@prod' asks for em of at least 0.5" in shell.fails(*push_it)
    better = (*push_it, "--metric", "em=0.6")
    assert "would be created at the new version 1" in shell.ok(*better, "--dry-run")
    shell.ok(*better)
    assert "points to version 1 already" in shell.ok("alias", "set", "a@prod", "1", "--dry-run")
    assert "never pointed" in shell.fails("rollback", "a@prod", "--to", "2", "--dry-run")
    assert "give --alias" in shell.fails("push", "v1", "a", "--dry-run")
    policy.write_text("[[rules]]\nmatch = '*@prod'\nmim = {em = 0.5}\n")
    assert "policy.toml: rules.0.mim" in shell.fails("store", "serve", "--port", "0")


def test_error_lists_every_condition_that_fails(registry: AdapterRegistry, tmp_path: Path) -> None:
    _, manifest = read_bundle(tmp_path / "a")
    with pytest.raises(HotswapError) as refusal:
        registry.versions.commit(PushRequest(NAME, manifest, by="ann", alias="prod"))
    assert refusal.value.status == 409
    assert [c["asked"] for c in refusal.value.fields["conditions"]] == [
        "em of at least 0.5",
        "em at most 0.1 below no version",
    ]
    assert "--metric em=VALUE" in refusal.value.message

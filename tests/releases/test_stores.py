"""Stores that earlier releases made: they open unchanged, and their adapters answer the same.

`store-<release>.tar.xz` holds a store with names, versions, moves, tokens, a signature, a yank and
a deletion, the tiny base that its adapters are for, and `facts.json`: what the release said of it.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from hotswap.registry.cli import cli
from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.errors import StoreTooNew, Unauthenticated
from hotswap.registry.domain.layout import format_key
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.registry import Registry
from hotswap.registry.settings import Home
from hotswap.registry.storage.format import FORMAT
from hotswap.registry.storage.local import LocalStore
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.http.app import Serving
from hotswap.serving.settings import Kernels
from tests.refusals import refused
from tests.servers import serving_app
from tests.serving.conftest import serving_settings

ACTIONS = {
    **{"push": 7, "sign": 1, "yank": 1, "delete": 1},
    **{"move": 6, "rollback": 1, "token.create": 2, "token.revoke": 1},
}
ARCHIVES = sorted(Path(__file__).parent.glob("store-*.tar.xz"))


@dataclass(frozen=True)
class Release:
    """A store as a release left it, and what the release said of it."""

    root: Path
    facts: dict[str, Any]

    def files(self) -> dict[str, bytes]:
        store = self.root / "store"
        return {
            path.relative_to(store).as_posix(): path.read_bytes()
            for path in store.rglob("*")
            if path.is_file()
        }

    def open(self) -> Registry:
        catalog = Catalog(f"sqlite:///{self.root}/catalog.sqlite")
        return Registry.open(LocalStore(self.root / "store"), catalog)


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    return Release(root, json.loads((root / "facts.json").read_text()))


@pytest.fixture
def registry(release: Release) -> Iterator[Registry]:
    opened = release.open()
    yield opened
    opened.close()


def test_no_object_of_the_store_is_changed_or_lost(release: Release) -> None:
    before = release.files()
    release.open().close()
    after = release.files()
    assert before.items() <= after.items()
    assert after.keys() - before.keys() <= {format_key(FORMAT)}


def test_histories_are_those_that_the_release_told(release: Release, registry: Registry) -> None:
    found = [
        move.model_dump(mode="json") for move in registry.aliases.history("team/orders", "prod")
    ]
    for move, told in zip(found, release.facts["history"], strict=True):
        assert told.items() <= move.items()


def test_versions_keep_their_digests_and_states(release: Release, registry: Registry) -> None:
    for model, (_, digest) in release.facts["answers"].items():
        assert str(registry.versions.resolve(AdapterRef.parse(model)).manifest_digest) == digest
    assert [state.state for state in registry.adapters.states("other/intents")] == [
        "yanked",
        "deleted",
    ]
    assert [version.number for version in registry.adapters.versions("other/intents")] == [1, 2]


def test_tokens_work_and_the_revoked_one_does_not(release: Release, registry: Registry) -> None:
    assert registry.access.principal(release.facts["token"]).name == "app"
    with refused(Unauthenticated, "revoked"):
        registry.access.principal(release.facts["revoked_token"])


def test_the_signature_is_there_and_everything_is_intact(
    release: Release, registry: Registry
) -> None:
    version = registry.versions.resolve(AdapterRef.parse("signed/orders:1"))
    (signature,) = registry.versions.signatures("signed/orders", version.manifest_digest)
    assert str(signature.key) == release.facts["public_key"]
    assert registry.versions.verify().damage == ()


def test_the_audit_names_every_change(registry: Registry) -> None:
    found = Counter(entry.action for entry in registry.access.entries())
    assert found == ACTIONS


@pytest.mark.parametrize("kernels", [Kernels.NATIVE, Kernels.TORCH])
def test_adapters_answer_as_the_release_answered(
    release: Release, registry: Registry, tmp_path: Path, kernels: Kernels
) -> None:
    """Each token leads by a third of a nat, so the rounding of a processor changes none."""
    base = BaseDirectory(release.root / "base", "tiny")
    settings = serving_settings(base).model_copy(update={"kernels": kernels})
    plane = Serving(settings, registry, Home(tmp_path / "home")).plane()
    with serving_app(assemble([registry_plane(registry), plane])) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            for model, (answer, _) in release.facts["answers"].items():
                got = client.chat.completions.create(
                    model=model,
                    messages=release.facts["messages"],
                    temperature=0,
                    max_tokens=release.facts["max_tokens"],
                )
                assert got.choices[0].message.content == answer, model


def test_a_newer_format_is_refused_before_anything_is_written(release: Release) -> None:
    newer = release.root / "store" / format_key(FORMAT + 1)
    newer.parent.mkdir(exist_ok=True)
    newer.write_text("{}")
    before = release.files()
    with pytest.raises(StoreTooNew) as refusal:
        release.open()
    assert (refusal.value.fields["found"], refusal.value.fields["known"]) == (FORMAT + 1, FORMAT)
    assert release.files() == before


@pytest.mark.parametrize("command", [["ls"], ["sweep", "--delete"], ["verify", "--all"]])
def test_every_command_refuses_a_newer_format_in_one_line(
    release: Release, command: list[str]
) -> None:
    newer = release.root / "store" / format_key(FORMAT + 1)
    newer.parent.mkdir(exist_ok=True)
    newer.write_text("{}")
    option = "--store" if command[0] == "sweep" else "--registry"
    environment = {"HOTSWAP_HOME": str(release.root / "home")}
    done = CliRunner().invoke(cli, [*command, option, str(release.root / "store")], env=environment)
    assert isinstance(done.exception, StoreTooNew)
    assert "\n" not in done.exception.message


def test_an_object_that_is_not_ours_among_the_formats_is_passed_over(release: Release) -> None:
    foreign = release.root / "store" / "formats" / "0000000009.json.bak"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("")
    release.open().close()

"""References, digests, manifests and settings: what is read prints back, what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hotswap.registry.domain.adapters import AdapterRef, check_alias, check_name
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import (
    AliasConflict,
    Conflict,
    Forbidden,
    HotswapError,
    InvalidDigest,
    InvalidManifest,
    InvalidReference,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    ServerBusy,
    Unauthenticated,
    Unavailable,
)
from hotswap.registry.domain.layout import (
    move_key,
    parse_move_key,
    parse_version_key,
    version_key,
)
from hotswap.registry.domain.manifest import BaseFingerprint, Lineage, Manifest
from hotswap.registry.settings import Home, RegistrySettings, read_home, read_section
from tests.refusals import refused
from tests.registry.bundles import read_bundle

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "text", ["sql", "team/sql", "team/sql:7", "team/sql@prod", f"team/sql@{DIGEST}", "a/b/c/d:1"]
)
def test_reference_prints_back_to_its_text(text: str) -> None:
    assert str(AdapterRef.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "/sql", "sql/", "Team/sql", "a/b/c/d/e", "../sql", "a..b", "sql:", "sql:0", "sql:07",
        "sql:x", "sql@", "sql@Prod", "sql@sha256:12", "sql@prod:1", "sql:1@prod", "a b", "sql\n",
        "versions", "team/aliases", "x.json", "x" * 129, "sql@x.json",
        # Look-alikes of 'sql', and ways out of the directory.
        "s\u0442l", "\uff53ql", "sq\u006c\u0301", "s\u200bql", "sql:\u0661", "%2e%2e/sql",
        "..%2fsql", "sql/../x", "\\\\host\\x", "c:sql", "~/sql", "-sql", "sql-",
        "sql@prod\u0000", "s\u0131l",
    ],
)  # fmt: skip
def test_text_that_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        AdapterRef.parse(text)


def test_bare_name_means_the_default_alias() -> None:
    assert AdapterRef.parse("team/sql").effective_alias == "prod"
    assert AdapterRef.parse("team/sql:7").effective_alias is None


def test_name_and_alias_are_returned_as_they_are() -> None:
    assert (check_name("team/sql"), check_alias("prod")) == ("team/sql", "prod")


@pytest.mark.parametrize("text", ["", "ab" * 32, "sha256:" + "AB" * 32, "md5:" + "ab" * 32])
def test_text_that_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigest):
        Digest.parse(text)


def test_digest_prints_back_to_its_text() -> None:
    assert str(Digest.parse(DIGEST)) == DIGEST


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "C:a", "a\nb", "x" * 256])
def test_descriptor_cannot_lead_out_of_its_directory(name: str) -> None:
    with pytest.raises(ValidationError):
        Descriptor(digest=Digest.of(b""), size_bytes=0, media_type="x", file_name=name)


def test_record_keys_are_read_from_the_right() -> None:
    assert parse_version_key(version_key("team/sql", 7)) == ("team/sql", 7)
    assert parse_move_key(move_key("team/sql", "prod", 12)) == ("team/sql", "prod", 12)


def test_record_keys_sort_like_their_numbers() -> None:
    numbers = [1, 9, 10, 99, 1000]
    assert sorted(numbers, key=lambda number: version_key("a", number)) == numbers


def test_manifest_digest_does_not_depend_on_the_order_of_fields(tmp_path: Path) -> None:
    _, manifest = read_bundle(tmp_path / "a")
    document = json.loads(manifest.canonical_json())
    reversed_text = json.dumps(dict(reversed(document.items())), indent=3).encode()
    assert Manifest.parse(reversed_text).canonical_json() == manifest.canonical_json()


def test_manifest_digest_changes_with_a_metric(tmp_path: Path) -> None:
    bundle, manifest = read_bundle(tmp_path / "a")
    assert bundle.manifest(metrics={"em": 0.5}).digest != manifest.digest


def test_manifest_without_lineage_has_the_digest_it_had_before_there_was_one(
    tmp_path: Path,
) -> None:
    bundle, manifest = read_bundle(tmp_path / "a")
    assert b"lineage" not in manifest.canonical_json()
    assert bundle.manifest(lineage=Lineage()).digest == manifest.digest
    assert Manifest.parse(changed(manifest, lineage=None)).digest == manifest.digest


def test_manifest_states_only_the_parts_of_the_lineage_that_are_known(tmp_path: Path) -> None:
    bundle, _ = read_bundle(tmp_path / "a")
    manifest = bundle.manifest(lineage=Lineage(run="r1"))
    assert json.loads(manifest.canonical_json())["lineage"] == {"run": "r1"}
    assert Manifest.parse(manifest.canonical_json()) == manifest


def test_stated_lineage_goes_before_the_bundles_own_and_a_parent_is_taken_whole() -> None:
    known = Lineage(parent="a:1", parent_digest=Digest.of(b"1"), run="r1", revision="c1")
    assert Lineage(parent="a:2", run="r2").over(known) == Lineage(
        parent="a:2", run="r2", revision="c1"
    )
    assert Lineage().over(known) == known


@pytest.mark.parametrize("parent", ["team/sql", "team/sql@prod", "Team:1"])
def test_parent_that_is_no_version_is_refused(tmp_path: Path, parent: str) -> None:
    _, manifest = read_bundle(tmp_path / "a")
    with refused(InvalidManifest, "lineage.parent"):
        Manifest.parse(changed(manifest, lineage={"parent": parent}))


def test_manifest_with_a_metric_that_is_no_number_is_refused(tmp_path: Path) -> None:
    bundle, _ = read_bundle(tmp_path / "a")
    with refused(InvalidManifest, "JSON"):
        bundle.manifest(metrics={"em": float("nan")}).canonical_json()


def changed(manifest: Manifest, **changes: Any) -> bytes:
    return json.dumps({**json.loads(manifest.canonical_json()), **changes}).encode()


def test_manifest_with_a_file_name_that_climbs_is_refused(tmp_path: Path) -> None:
    _, manifest = read_bundle(tmp_path / "a")
    files = [{**json.loads(f.model_dump_json()), "file_name": "../x"} for f in manifest.files[:1]]
    with refused(InvalidManifest, "files.0.file_name"):
        Manifest.parse(changed(manifest, files=files))


def test_manifest_with_two_files_of_one_name_is_refused(tmp_path: Path) -> None:
    _, manifest = read_bundle(tmp_path / "a")
    files = [json.loads(f.model_dump_json()) for f in manifest.files]
    twice = [*files, {**files[0], "file_name": files[0]["file_name"].upper()}]
    with refused(InvalidManifest, files[0]["file_name"].upper()):
        Manifest.parse(changed(manifest, files=twice))


def test_manifest_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    _, manifest = read_bundle(tmp_path / "a")
    with refused(InvalidManifest, "colour"):
        Manifest.parse(changed(manifest, colour="red"))


def test_base_mismatch_names_the_fields() -> None:
    one, other = Digest.of(b"1"), Digest.of(b"2")
    adapter = BaseFingerprint(model_id="x", config_digest=one, weights_digest=one)
    served = BaseFingerprint(model_id="y", config_digest=one, weights_digest=other)
    assert adapter.mismatches(served) == ["weights_digest"]


def test_error_comes_back_from_its_body_with_class_and_fields() -> None:
    error = AliasConflict("moved", current=3)
    rebuilt = HotswapError.from_body(409, json.loads(json.dumps(error.body())))
    assert type(rebuilt) is AliasConflict
    assert (rebuilt.message, rebuilt.fields) == ("moved", {"current": 3})


@pytest.mark.parametrize(
    ("status", "nearest"),
    [
        (400, InvalidRequest),
        (401, Unauthenticated),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (422, HotswapError),
        (429, ServerBusy),
        (500, HotswapError),
        (503, Unavailable),
    ],
)
def test_error_of_a_layer_that_is_not_imported_is_the_nearest(
    status: int, nearest: type[HotswapError]
) -> None:
    sent = {"error": {"message": "no", "code": "of_another_layer", "fields": {"param": "x"}}}
    rebuilt = HotswapError.from_body(status, sent)
    assert type(rebuilt) is nearest
    assert (rebuilt.code, rebuilt.status, rebuilt.fields) == (
        "of_another_layer", status, {"param": "x"},
    )  # fmt: skip
    assert rebuilt.body()["error"]["code"] == "of_another_layer"


def test_error_amid_a_stream_has_the_status_of_an_error() -> None:
    rebuilt = HotswapError.from_body(200, {"error": {"message": "no", "code": "of_another_layer"}})
    assert (rebuilt.code, rebuilt.status) == ("of_another_layer", 500)


def test_two_errors_cannot_have_one_code() -> None:
    with pytest.raises(TypeError, match="alias_conflict"):
        type("Again", (HotswapError,), {"code": "alias_conflict"})


def test_error_from_a_foreign_body_says_what_came() -> None:
    assert "502" in HotswapError.from_body(502, "Bad Gateway").message


def test_unknown_variable_is_an_error() -> None:
    with refused(InvalidSettings, "HOTSWAP_REGISTRY_STORE"):
        read_section("registry", RegistrySettings, environment={"HOTSWAP_REGISTRY_STROE": "x"})
    with refused(InvalidSettings, "HOTSWAP_STORE"):
        read_section("registry", RegistrySettings, environment={"HOTSWAP_STORE": "x"})
    of_other_layers = {"HOTSWAP_SERVING_BASE": "x", "HOTSWAP_TRAINING_JOBS": "1"}
    read_section("registry", RegistrySettings, environment=of_other_layers)


def test_arguments_go_before_the_environment() -> None:
    environment = {"HOTSWAP_REGISTRY_STORE": "a", "HOTSWAP_REGISTRY_URL": "http://b"}
    settings = read_section("registry", RegistrySettings, {"store": "c", "url": None}, environment)
    assert (settings.store, settings.url) == ("c", "http://b")


def test_home_moves_all_state(tmp_path: Path) -> None:
    home = read_home(Home, {"HOTSWAP_HOME": str(tmp_path)})
    assert {home.store.parent, home.catalog.parent} == {tmp_path}

"""What every registry's versions must do, with the same errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hotswap.registry.bundles.comparison import compare
from hotswap.registry.bundles.transfer import pull, push
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import (
    AdapterNotFound,
    AliasNotFound,
    BlobNotFound,
    InvalidManifest,
    InvalidReference,
    InvalidRequest,
    NameTaken,
    UnsafeFile,
    VersionNotFound,
)
from hotswap.registry.domain.manifest import Lineage, Manifest
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.domain.requests import PushRequest
from tests.contracts.pushes import NAME, push_version
from tests.refusals import refused
from tests.registry.bundles import MODULE, file_bytes, make_bundle, read_bundle


def upload(registry: AdapterRegistry, directory: Path) -> Manifest:
    bundle, manifest = read_bundle(directory)
    push(registry, "uploaded", bundle, manifest, by="ann")
    return manifest


@pytest.mark.usefixtures("names_are_synced")
def test_pulled_adapter_is_the_pushed_one_byte_for_byte(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1)
    pull(registry, AdapterRef.parse(f"{NAME}:1"), tmp_path / "pulled")
    assert file_bytes(tmp_path / "pulled") == file_bytes(tmp_path / "team-sql-1-None")


@pytest.mark.parametrize("twin", ["team/my-sql", "team/my.sql", "team/my__sql"])
def test_name_that_looks_like_another_ones_is_refused(
    registry: AdapterRegistry, tmp_path: Path, twin: str
) -> None:
    first, manifest = read_bundle(tmp_path / "first", 1)
    push(registry, "team/my_sql", first, manifest, by="ann")
    with refused(NameTaken, "'team/my_sql'"):
        push(registry, twin, first, manifest, by="eve", alias="prod")
    assert [a.name for a in registry.adapters.all()] == ["team/my_sql"]
    assert push(registry, "team/my_sql", first, manifest, by="ann").number == 1


def test_missing_manifest_is_not_found(registry: AdapterRegistry) -> None:
    with pytest.raises(BlobNotFound):
        registry.versions.manifest(Digest.of(b"never stored"))


def test_versions_count_from_one(registry: AdapterRegistry, tmp_path: Path) -> None:
    pushed = [push_version(registry, tmp_path, seed) for seed in (1, 2, 3)]
    assert [version.number for version in pushed] == [1, 2, 3]
    assert registry.adapters.versions(NAME) == pushed


def test_same_manifest_again_is_the_same_version(registry: AdapterRegistry, tmp_path: Path) -> None:
    first = push_version(registry, tmp_path, 1)
    push_version(registry, tmp_path, 2)
    bundle, manifest = read_bundle(tmp_path / "again", 1)
    assert push(registry, NAME, bundle, manifest, by="bob") == first


def test_same_manifest_under_another_name_is_another_version(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1)
    version = push_version(registry, tmp_path, 1, name="other")
    assert (version.name, version.number) == ("other", 1)


def test_manifest_comes_back_canonical(registry: AdapterRegistry, tmp_path: Path) -> None:
    version = push_version(registry, tmp_path, 1)
    data = registry.versions.manifest_bytes(version.manifest_digest)
    assert Digest.of(data) == version.manifest_digest
    assert registry.versions.manifest(version.manifest_digest) == Manifest.parse(data)


def test_lineage_comes_back(registry: AdapterRegistry, tmp_path: Path) -> None:
    parent = push_version(registry, tmp_path, 1)
    bundle, _ = read_bundle(tmp_path / "b", 2)
    lineage = Lineage(
        parent=str(parent.ref),
        parent_digest=parent.manifest_digest,
        dataset_digest=Digest.of(b"rows"),
        run="20261124-a1",
        revision="3f2c9d1",
    )
    version = push(registry, NAME, bundle, bundle.manifest(lineage=lineage), by="ann")
    assert registry.versions.manifest(version.manifest_digest).lineage == lineage


def test_commit_without_the_blobs_is_refused(registry: AdapterRegistry, tmp_path: Path) -> None:
    _, manifest = read_bundle(tmp_path / "a")
    with refused(BlobNotFound, "README.md", manifest.file("README.md").digest):
        registry.versions.commit(PushRequest(NAME, manifest, by="ann"))
    with pytest.raises(AdapterNotFound):
        registry.adapters.versions(NAME)


def test_manifest_that_lies_about_the_rank_is_refused(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    manifest = upload(registry, tmp_path / "a")
    lie = manifest.model_copy(update={"lora": manifest.lora.model_copy(update={"r": 64})})
    with refused(InvalidManifest, "lora.r", 64):
        registry.versions.commit(PushRequest(NAME, lie, by="ann"))


def test_manifest_that_hides_that_it_cannot_be_served_is_refused(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    bundle, manifest = read_bundle(tmp_path / "a", modules_to_save=["lm_head"])
    push(registry, "uploaded", bundle, manifest, by="ann")
    lora = manifest.lora.model_copy(update={"not_servable": ()})
    with refused(InvalidManifest, "modules_to_save"):
        registry.versions.commit(
            PushRequest(NAME, manifest.model_copy(update={"lora": lora}), by="ann")
        )


def test_manifest_that_lies_about_a_size_is_refused(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    manifest = upload(registry, tmp_path / "a")
    first = manifest.files[0].model_copy(update={"size_bytes": 1})
    lie = manifest.model_copy(update={"files": (first, *manifest.files[1:])})
    with refused(InvalidManifest, "1 bytes"):
        registry.versions.commit(PushRequest(NAME, lie, by="ann"))


def test_manifest_that_names_a_pickle_is_refused(registry: AdapterRegistry, tmp_path: Path) -> None:
    manifest = upload(registry, tmp_path / "a")
    extra = manifest.files[0].model_copy(update={"file_name": "adapter_model.bin"})
    with refused(UnsafeFile, "adapter_model.bin"):
        registry.versions.commit(
            PushRequest(
                NAME, manifest.model_copy(update={"files": (*manifest.files, extra)}), by="ann"
            )
        )


def test_manifest_without_weights_is_refused(registry: AdapterRegistry, tmp_path: Path) -> None:
    manifest = upload(registry, tmp_path / "a")
    files = tuple(f for f in manifest.files if f.file_name == "README.md")
    with refused(InvalidManifest, "adapter_config.json"):
        registry.versions.commit(
            PushRequest(NAME, manifest.model_copy(update={"files": files}), by="ann")
        )


def test_references_resolve_by_number_alias_digest_and_default(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    first = push_version(registry, tmp_path, 1, alias="prod")
    second = push_version(registry, tmp_path, 2, alias="candidate")
    for text, version in {
        NAME: first,
        f"{NAME}:2": second,
        f"{NAME}@candidate": second,
        f"{NAME}@{second.manifest_digest}": second,
    }.items():
        assert registry.versions.resolve(AdapterRef.parse(text)) == version


def test_unknown_alias_error_names_the_aliases_there_are(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1, alias="prod")
    push_version(registry, tmp_path, 2, alias="candidate")
    with refused(AliasNotFound, "'prd'", "candidate, prod"):
        registry.versions.resolve(AdapterRef.parse(f"{NAME}@prd"))


def test_unknown_version_error_names_the_versions_there_are(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1)
    push_version(registry, tmp_path, 2)
    with refused(VersionNotFound, 9, "1 to 2", name=NAME):
        registry.versions.resolve(AdapterRef.parse(f"{NAME}:9"))


def test_highest_number_a_reference_may_have_is_only_unknown(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1)
    with refused(VersionNotFound, "9999999999"):
        registry.versions.resolve(AdapterRef.parse(f"{NAME}:9999999999"))


def test_unknown_adapter_error_names_adapters_there_are(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1)
    with refused(AdapterNotFound, "'team/sqk'", "team/sql"):
        registry.versions.resolve(AdapterRef.parse("team/sqk:1"))


def test_invalid_name_is_an_invalid_reference(registry: AdapterRegistry, tmp_path: Path) -> None:
    _, manifest = read_bundle(tmp_path / "a")
    for name in ("Team/SQL", "../x", "a/versions"):
        with pytest.raises(InvalidReference):
            registry.versions.commit(PushRequest(name, manifest, by="ann"))


def test_concurrent_pushes_get_distinct_numbers_and_none_is_lost(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(50) as pool:
        pushed = list(pool.map(lambda seed: push_version(registry, tmp_path, seed), range(50)))
    assert sorted(version.number for version in pushed) == list(range(1, 51))
    assert registry.adapters.versions(NAME) == sorted(pushed, key=lambda version: version.number)


def test_concurrent_pushes_of_one_manifest_are_one_version(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    bundle, manifest = read_bundle(tmp_path / "a")
    with ThreadPoolExecutor(8) as pool:
        pushed = list(
            pool.map(lambda i: push(registry, NAME, bundle, manifest, by=f"user-{i}"), range(8))
        )
    assert registry.adapters.versions(NAME) == [pushed[0]]
    assert set(map(str, pushed)) == {str(pushed[0])}


def test_pull_into_a_directory_that_is_not_empty_is_refused(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    push_version(registry, tmp_path, 1)
    target = make_bundle(tmp_path / "mine", 7)
    before = file_bytes(target)
    with refused(InvalidRequest, target):
        pull(registry, AdapterRef.parse(f"{NAME}:1"), target)
    assert file_bytes(target) == before


def test_versions_are_compared_through_any_registry(
    registry: AdapterRegistry, tmp_path: Path
) -> None:
    for seed in (1, 2):
        push_version(registry, tmp_path, seed)
    first, second = (AdapterRef.parse(f"{NAME}:{number}") for number in (1, 2))
    assert compare(registry, first, first).change == 0.0
    found = compare(registry, first, second)
    assert [layer.module for layer in found.layers] == [MODULE]
    assert [change.field for change in found.files] == [
        "files.README.md",
        "files.adapter_model.safetensors",
    ]
    with pytest.raises(VersionNotFound):
        compare(registry, first, AdapterRef.parse(f"{NAME}:3"))

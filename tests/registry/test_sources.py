"""A push from a directory, a tar file or a hub snapshot is the same push."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.sources import open_source
from hotswap.registry.domain.errors import InvalidBundle, UnsafeFile
from hotswap.registry.domain.manifest import Manifest
from tests.refusals import refused
from tests.registry.bundles import make_bundle


def manifest_from(source: Path | str) -> Manifest:
    with open_source(str(source)) as directory:
        return Bundle.read(directory).manifest()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "adapter")


def write_tar(path: Path, bundle: Path, prefix: str = "", mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for file in sorted(bundle.iterdir()):
            archive.add(file, prefix + file.name)
    return path


def tar_with(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("name", "prefix", "mode"),
    [("a.tar", "", "w"), ("a.tar.gz", "adapter/", "w:gz"), ("b.tar", "./", "w")],
)
def test_a_tar_file_gives_the_manifest_of_its_directory(
    bundle: Path, tmp_path: Path, name: str, prefix: str, mode: str
) -> None:
    packed = write_tar(tmp_path / name, bundle, prefix, mode)
    assert manifest_from(packed) == manifest_from(bundle)


def test_a_hub_snapshot_gives_the_manifest_of_its_directory(bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(bundle.iterdir())):
        blob = repository / "blobs" / str(number)
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert manifest_from(snapshot) == manifest_from(bundle)
    (snapshot / "secret.txt").symlink_to("/etc/hostname")
    with refused(UnsafeFile, "secret.txt"):
        manifest_from(snapshot)


@pytest.mark.parametrize(
    "bad",
    [
        member("../escape.json"),
        member("/absolute.json"),
        member("link.json", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard.json", tarfile.LNKTYPE, "adapter_config.json"),
        member("device", tarfile.CHRTYPE),
        member("deep/er/file.json"),
    ],
    ids=lambda info: info.name,
)
def test_a_tar_file_with_anything_but_plain_flat_files_is_refused(
    tmp_path: Path, bad: tarfile.TarInfo
) -> None:
    packed = tar_with(tmp_path / "a.tar", member("adapter_config.json"), bad)
    with pytest.raises(UnsafeFile):
        manifest_from(packed)
    assert not (tmp_path / "escape.json").exists()


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    packed = tar_with(tmp_path / "a.tar", member("a.json"), member("a.json"))
    with refused(UnsafeFile, "twice"):
        manifest_from(packed)


@pytest.mark.parametrize("data", [b"not a tar file", b""])
def test_a_file_that_is_no_tar_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with refused(InvalidBundle, "a.tar"):
        manifest_from(tmp_path / "a.tar")


def test_a_name_of_nothing_is_refused(tmp_path: Path) -> None:
    with refused(InvalidBundle, tmp_path / "nothing"):
        manifest_from(tmp_path / "nothing")


def test_what_was_unpacked_is_removed(bundle: Path, tmp_path: Path) -> None:
    with open_source(str(write_tar(tmp_path / "a.tar", bundle))) as directory:
        assert directory.exists()
    assert not directory.exists()

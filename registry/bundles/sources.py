"""What a push may be made from: a PEFT directory, a tar file, a hub snapshot or a hub id.

All of them become one flat directory of plain files; `bundle` then checks what is in it.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hotswap.registry.bundles.bundle import CHUNK_BYTES
from hotswap.registry.domain.digests import check_file_name
from hotswap.registry.domain.errors import InvalidBundle, UnsafeFile
from hotswap.registry.domain.manifest import MAX_FILES

MAX_TAR_BYTES = 16 << 30
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ["adapter_config.json", "*.safetensors", "README.md", "hotswap.json", "*.bin"]


@contextmanager
def open_source(source: str) -> Iterator[Path]:
    """The directory that `source` means; what had to be unpacked is removed at the end.

    Raises InvalidBundle when there is nothing of that name, UnsafeFile when a tar file holds
    anything but plain files at its top or in one directory.
    """
    path = Path(source).expanduser()
    if path.is_dir() and not _is_snapshot(path):
        yield path
        return
    with TemporaryDirectory() as work:
        directory = Path(work) / "adapter"
        directory.mkdir()
        if path.is_dir():
            _copy_snapshot(path, directory)
        elif path.is_file():
            _unpack(path, directory)
        elif _HUB_ID.fullmatch(source):
            _download(source, directory)
        else:
            raise InvalidBundle(
                f"{source} is no directory, no tar file and no hub id (owner/name); give the PEFT "
                "adapter directory"
            )
        yield directory


def _is_snapshot(path: Path) -> bool:
    """Whether it is `…/snapshots/<revision>` of the hub's cache, whose files are links to blobs."""
    return path.parent.name == "snapshots" and (path.parent.parent / "blobs").is_dir()


def _copy_snapshot(path: Path, directory: Path) -> None:
    blobs = (path.parent.parent / "blobs").resolve()
    for entry in sorted(path.iterdir()):
        target = entry.resolve()
        if entry.is_symlink() and target.parent != blobs:
            raise UnsafeFile(f"{entry.name} is a link to a place outside the snapshot's blobs")
        if not target.is_file():
            raise UnsafeFile(f"{entry.name} is not a plain file; push a flat adapter directory")
        shutil.copyfile(target, directory / entry.name)


def _unpack(path: Path, directory: Path) -> None:
    """Every member must be a plain file; one common directory in front of all names is dropped."""
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive if not member.isdir()]
            if len(members) > MAX_FILES:
                raise InvalidBundle(f"{path.name} holds more than {MAX_FILES} files")
            if sum(member.size for member in members) > MAX_TAR_BYTES:
                raise InvalidBundle(f"{path.name} unpacks to more than {MAX_TAR_BYTES} bytes")
            for member, name in zip(members, _flat_names(members), strict=True):
                stored = archive.extractfile(member) if member.isreg() else None
                if stored is None:
                    raise UnsafeFile(f"{path.name}: {member.name} is not a plain file")
                with stored, (directory / name).open("xb") as file:
                    shutil.copyfileobj(stored, file, CHUNK_BYTES)
    except (tarfile.TarError, EOFError) as error:
        raise InvalidBundle(f"{path.name} is no tar file, or it is damaged: {error}") from None
    except FileExistsError:
        raise UnsafeFile(f"{path.name} holds the same file name twice") from None


def _flat_names(members: list[tarfile.TarInfo]) -> list[str]:
    names = [member.name.removeprefix("./") for member in members]
    folders = {name.rpartition("/")[0] for name in names}
    folder = f"{folders.pop()}/" if len(folders) == 1 and "" not in folders else ""
    flat = [name.removeprefix(folder) for name in names]
    for name in flat:
        try:
            check_file_name(name)
        except ValueError as error:
            raise UnsafeFile(f"{name[:100]!r} in the tar file: {error}") from None
    return flat


def _download(hub_id: str, directory: Path) -> None:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise InvalidBundle(
            f"{hub_id} is no directory here; to take it from the hub: pip install huggingface_hub"
        ) from None
    try:
        snapshot = snapshot_download(hub_id, allow_patterns=_HUB_FILES)
    except Exception as error:  # the hub client raises its own, httpx's and OS errors alike
        reason = str(error).strip().split("\n")[0]
        raise InvalidBundle(
            f"{hub_id} is no directory here and could not be fetched from the hub "
            f"({type(error).__name__}: {reason[:200]})"
        ) from error
    _copy_snapshot(Path(snapshot), directory)

"""Looks into a PEFT directory without torch: config, safetensors header, hashes while reading.

A Bundle is a directory that has been checked and described; its bytes stay on disk.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hotswap.registry.bundles.header import MAX_JSON_BYTES, parse_object, read_tensor_shapes
from hotswap.registry.bundles.peft_config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    PeftConfig,
    read_lora_shape,
)
from hotswap.registry.bundles.tensors import has_effect
from hotswap.registry.domain.digests import Descriptor, hash_file
from hotswap.registry.domain.errors import InvalidBundle, UnsafeFile
from hotswap.registry.domain.manifest import (
    MAX_FILE_BYTES,
    MAX_FILES,
    BaseFingerprint,
    BundleMetadata,
    Lineage,
    LoraShape,
    Manifest,
)
from hotswap.registry.domain.values import first_problem

METADATA_FILE = "hotswap.json"

CHUNK_BYTES = 1 << 20

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
_MEDIA_TYPES = {
    ".json": "application/json",
    ".safetensors": "application/vnd.safetensors",
    ".md": "text/markdown",
    ".jinja": "text/plain",
    ".txt": "text/plain",
    ".csv": "text/csv",
}
_KNOWN_FILES = frozenset({CONFIG_FILE, WEIGHTS_FILE, METADATA_FILE, "README.md"})


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked PEFT directory. Invariant: `files` are regular, hashed and free of pickles.

    `notes` are for the person who pushes: what is stored although nothing here makes use of it.
    """

    directory: Path
    files: tuple[Descriptor, ...]
    lora: LoraShape
    metadata: BundleMetadata
    stated_base: str | None
    has_effect: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, directory: Path) -> Bundle:
        """Check and hash a PEFT directory.

        Raises InvalidBundle (a file is missing, malformed or too large, the config is not as PEFT
        writes it, tensors do not fit it or hold NaN) or UnsafeFile (a pickle, a symbolic link, a
        sub-directory), naming the file.
        """
        paths = _regular_files(directory)
        config = _json_object(directory / CONFIG_FILE)
        lora = read_lora_shape(config, read_tensor_shapes(directory / WEIGHTS_FILE))
        return cls(
            directory=directory,
            files=tuple(_describe(path) for path in paths),
            lora=lora,
            metadata=_metadata(directory),
            stated_base=config.get("base_model_name_or_path") or None,
            has_effect=has_effect(directory / WEIGHTS_FILE) or lora.is_dora,
            notes=tuple(_notes(paths, config)),
        )

    def manifest(
        self,
        *,
        base: BaseFingerprint | None = None,
        metrics: dict[str, float] | None = None,
        description: str = "",
        tags: dict[str, str] | None = None,
        lineage: Lineage | None = None,
    ) -> Manifest:
        """The manifest of this directory; arguments go before what `hotswap.json` says.

        Raises InvalidBundle when nothing says which base the adapter belongs to.
        """
        known = self.metadata
        fingerprint = base or known.base
        if fingerprint is None and self.stated_base is not None:
            fingerprint = BaseFingerprint(model_id=self.stated_base)
        if fingerprint is None:
            raise InvalidBundle(
                f"{self.directory}: nothing says which base model the adapter belongs to; set "
                f"'base_model_name_or_path' in {CONFIG_FILE} or give a base fingerprint"
            )
        return Manifest(
            files=self.files,
            base=fingerprint,
            lora=self.lora,
            prompt=known.prompt,
            provenance=known.provenance,
            metrics={**known.metrics, **(metrics or {})},
            probes=known.probes,
            description=description or known.description,
            tags={**known.tags, **(tags or {})},
            lineage=known.lineage if lineage is None else lineage.over(known.lineage),
        )

    def path(self, descriptor: Descriptor) -> Path:
        return self.directory / descriptor.file_name


def _regular_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise InvalidBundle(f"{directory} is not a directory; give the PEFT adapter directory")
    paths = sorted(directory.iterdir())
    for path in paths:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise UnsafeFile(f"{path.name} is a symbolic link; push a directory of plain files")
        if stat.S_ISDIR(mode):
            raise UnsafeFile(f"{path.name} is a directory; push a flat PEFT adapter directory")
        if not stat.S_ISREG(mode):
            raise UnsafeFile(f"{path.name} is not a plain file; push a directory of plain files")
        refuse_pickle(path.name)
    names = {path.name for path in paths}
    for required in (CONFIG_FILE, WEIGHTS_FILE):
        if required not in names:
            raise InvalidBundle(f"{directory} has no {required}; is it a PEFT adapter directory?")
    if len(paths) > MAX_FILES:
        raise InvalidBundle(f"{directory} has {len(paths)} files; at most {MAX_FILES} are allowed")
    for path in paths:
        if (size_bytes := path.stat().st_size) > MAX_FILE_BYTES:
            raise InvalidBundle(
                f"{path.name} has {size_bytes} bytes; at most {MAX_FILE_BYTES} are allowed"
            )
    return paths


def _notes(paths: list[Path], config: dict[str, Any]) -> Iterator[str]:
    if unknown := [path.name for path in paths if path.name not in _KNOWN_FILES]:
        yield f"stored, but of no use to serving: {', '.join(unknown)}"
    if fields := PeftConfig.check(config).unknown_fields:
        yield f"{CONFIG_FILE} sets fields that are not known here: {', '.join(fields)}"


def refuse_pickle(file_name: str) -> None:
    """Raises UnsafeFile for the name of a file that torch would unpickle."""
    if Path(file_name).suffix.lower() in _PICKLE_SUFFIXES:
        raise UnsafeFile(
            f"{file_name} can hold a pickle, which runs code when loaded; only safetensors is "
            f"accepted. Save the adapter as {WEIGHTS_FILE} and remove {file_name}"
        )


def _describe(path: Path) -> Descriptor:
    hasher = hash_file(path)
    try:
        return Descriptor(
            digest=hasher.digest,
            size_bytes=hasher.size_bytes,
            media_type=_MEDIA_TYPES.get(path.suffix.lower(), "application/octet-stream"),
            file_name=path.name,
        )
    except ValidationError as error:
        raise InvalidBundle(f"{path.parent}: {first_problem(error)}") from None


def _json_object(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return parse_object(file.read(MAX_JSON_BYTES + 1), path.name)


def _metadata(directory: Path) -> BundleMetadata:
    path = directory / METADATA_FILE
    if not path.exists():
        return BundleMetadata()
    try:
        return BundleMetadata.model_validate(_json_object(path))
    except ValidationError as error:
        raise InvalidBundle(f"{METADATA_FILE}: {first_problem(error)}") from None

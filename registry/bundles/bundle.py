"""Looks into a PEFT directory without torch: config, safetensors header, hashes while reading.

A Bundle is a directory that has been checked and described; its bytes stay on disk.
"""

from __future__ import annotations

import json
import math
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from registry.bundles.tensors import has_effect
from registry.digests import Descriptor, hash_file
from registry.errors import InvalidBundle, UnsafeFile
from registry.manifest import BaseFingerprint, BundleMetadata, LoraShape, Manifest, first_problem

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
METADATA_FILE = "hotswap.json"

MAX_FILES = 64
MAX_HEADER_BYTES = 16 << 20
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
PEFT_PREFIX = "base_model.model."  # in front of every module in the file PEFT writes
# What JSON of another form than expected raises on the way to the values.
_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
# Fields of adapter_config.json whose effect serving does not apply, with the words for the user.
_UNSUPPORTED_FIELDS = {
    "modules_to_save": "it replaces whole modules (modules_to_save)",
    "trainable_token_indices": "it trains embeddings (trainable_token_indices)",
    "layer_replication": "it replicates layers (layer_replication)",
    "fan_in_fan_out": "its weights are transposed (fan_in_fan_out)",
    "lora_bias": "it trains LoRA biases (lora_bias)",
    "alora_invocation_tokens": "it is an activated LoRA (alora_invocation_tokens)",
    "use_dora": "it is a DoRA adapter (use_dora)",
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked PEFT directory. Invariant: `files` are regular, hashed and free of pickles."""

    directory: Path
    files: tuple[Descriptor, ...]
    lora: LoraShape
    metadata: BundleMetadata
    stated_base: str | None
    has_effect: bool

    @classmethod
    def read(cls, directory: Path) -> Bundle:
        """Check and hash a PEFT directory.

        Raises InvalidBundle (a file is missing or malformed, tensors do not fit the config or hold
        NaN) or
        UnsafeFile (a pickle, a symbolic link, a sub-directory), naming the file.
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
            has_effect=has_effect(directory / WEIGHTS_FILE) or lora.kind == "dora",
        )

    def manifest(
        self,
        *,
        base: BaseFingerprint | None = None,
        metrics: dict[str, float] | None = None,
        description: str = "",
        tags: dict[str, str] | None = None,
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
        )

    def path(self, descriptor: Descriptor) -> Path:
        return self.directory / descriptor.file_name


def read_tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name → shape of a safetensors file; raises InvalidBundle."""
    with path.open("rb") as file:
        return parse_tensor_shapes(file.read, path.stat().st_size, path.name)


def parse_tensor_shapes(
    read: Callable[[int], bytes], size_bytes: int, file_name: str
) -> dict[str, tuple[int, ...]]:
    """Tensor name → shape from a safetensors header (8 bytes of length, then JSON).

    `read(n)` gives the next n bytes of the file. Raises InvalidBundle when the header is
    malformed or disagrees with the file's size.
    """
    prefix = read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
        raise InvalidBundle(f"{file_name} is not a safetensors file: bad header length")
    try:
        header = json.loads(read(length))
        tensors = {n: t for n, t in header.items() if n != "__metadata__"}
        end = max((int(t["data_offsets"][1]) for t in tensors.values()), default=0)
        shapes = {n: tuple(int(d) for d in t["shape"]) for n, t in tensors.items()}
    except _MALFORMED as error:
        raise InvalidBundle(f"{file_name} is not a safetensors file: {error}") from None
    if 8 + length + end != size_bytes:
        raise InvalidBundle(
            f"{file_name} is {size_bytes} bytes long but its header describes {8 + length + end};"
            " the file is cut short or damaged"
        )
    return shapes


def read_lora_shape(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> LoraShape:
    """Hold adapter_config.json against the tensors; raises InvalidBundle where they disagree."""
    if config.get("peft_type") != "LORA":
        raise InvalidBundle(
            f"{CONFIG_FILE}: peft_type is {config.get('peft_type')!r}; only 'LORA' is supported"
        )
    pairs, other = _lora_pairs(shapes)
    ranks = {module: _rank(module, a, b) for module, (a, b) in pairs.items()}
    if not ranks:
        raise InvalidBundle(f"{WEIGHTS_FILE} holds no LoRA weights (no '….lora_A.weight')")
    reasons = [words for field, words in _UNSUPPORTED_FIELDS.items() if config.get(field)]
    if config.get("bias", "none") != "none":
        reasons.append(f"it trains biases (bias={config['bias']!r})")
    if other and not reasons:
        reasons.append(f"it holds a tensor that is not a LoRA weight ({other[0]})")
    try:
        shape = LoraShape.model_validate(
            {
                "kind": _kind(config),
                "r": config.get("r"),
                "max_r": max(ranks.values()),
                "lora_alpha": config.get("lora_alpha"),
                "modules": tuple(sorted(ranks)),
                "rank_pattern": config.get("rank_pattern") or {},
                "alpha_pattern": config.get("alpha_pattern") or {},
                "num_parameters": sum(math.prod(shape) for shape in shapes.values()),
                "not_servable": tuple(reasons),
            }
        )
    except ValidationError as error:
        raise InvalidBundle(f"{CONFIG_FILE}: {first_problem(error)}") from None
    allowed = {shape.r, *shape.rank_pattern.values()}
    for module, rank in ranks.items():
        if rank not in allowed:
            raise InvalidBundle(
                f"{WEIGHTS_FILE}: {module} has rank {rank}, but {CONFIG_FILE} says r={shape.r}"
                f" and rank_pattern={shape.rank_pattern}"
            )
    return shape


def _kind(config: dict[str, Any]) -> str:
    if config.get("use_dora"):
        return "dora"
    return "rslora" if config.get("use_rslora") else "lora"


def _lora_pairs(
    shapes: dict[str, tuple[int, ...]],
) -> tuple[dict[str, tuple[tuple[int, ...], tuple[int, ...]]], list[str]]:
    """Module → (shape of A, shape of B), and the names of all other tensors."""
    pairs, other = {}, []
    for name, a_shape in sorted(shapes.items()):
        stem = name.removesuffix(".lora_A.weight")
        if stem != name:
            partner = f"{stem}.lora_B.weight"
            if partner not in shapes:
                raise InvalidBundle(f"{WEIGHTS_FILE}: {name} has no {partner}")
            pairs[stem.removeprefix(PEFT_PREFIX)] = (a_shape, shapes[partner])
        elif name.endswith(".lora_B.weight"):
            if name.replace(".lora_B.", ".lora_A.") not in shapes:
                raise InvalidBundle(f"{WEIGHTS_FILE}: {name} has no lora_A weight")
        else:
            other.append(name)
    return pairs, other


def _rank(module: str, a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """The r of A (r, in) and B (out, r)."""
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] < 1:
        raise InvalidBundle(
            f"{WEIGHTS_FILE}: {module} has A of shape {a} and B of shape {b}; "
            "expected (r, in) and (out, r)"
        )
    return a[0]


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
    return paths


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


def parse_config(data: bytes, file_name: str) -> dict[str, Any]:
    """The JSON object in `data`; raises InvalidBundle when it is something else."""
    try:
        value = json.loads(data)
    except _MALFORMED as error:
        raise InvalidBundle(f"{file_name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidBundle(f"{file_name} holds {type(value).__name__}, expected a JSON object")
    return value


def _json_object(path: Path) -> dict[str, Any]:
    return parse_config(path.read_bytes(), path.name)


def _metadata(directory: Path) -> BundleMetadata:
    path = directory / METADATA_FILE
    if not path.exists():
        return BundleMetadata()
    try:
        return BundleMetadata.model_validate(_json_object(path))
    except ValidationError as error:
        raise InvalidBundle(f"{METADATA_FILE}: {first_problem(error)}") from None

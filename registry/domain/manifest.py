"""The manifest: everything that makes an adapter version what it is. Pure.

A manifest is immutable. Its canonical JSON (RFC 8785) has one digest, and that digest is the
version's identity from training to answer. It holds no time stamp and no author: pushing the
same content twice gives the same manifest; who and when stand in the AdapterVersion.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import rfc8785
from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.digests import Descriptor, Digest
from hotswap.registry.domain.errors import InvalidManifest, InvalidReference
from hotswap.registry.domain.patterns import fits_end
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.registry.domain.values import ValueObject, first_problem

MAX_MANIFEST_BYTES = 1 << 20
MAX_PROBES = 8


def _is_none(value: object) -> bool:
    return value is None


class BaseFingerprint(ValueObject):
    """Which base model an adapter belongs to. A field that is None is not stated.

    `model_id`, `revision` and `quantization` are for people: a directory may be renamed, and an
    adapter trained beside a 4-bit base may be served beside an 8-bit one.
    """

    model_id: str
    revision: str | None = None
    config_digest: Digest | None = None
    tokenizer_digest: Digest | None = None
    template_digest: Digest | None = None
    weights_digest: Digest | None = None
    quantization: str | None = None

    def mismatches(self, served: BaseFingerprint) -> list[str]:
        """The names of the fields that forbid serving this adapter on the `served` base.

        Every stated digest must be equal; an adapter that states none must name the base's id.
        """
        fields = ("config_digest", "tokenizer_digest", "template_digest", "weights_digest")
        stated = [field for field in fields if getattr(self, field) is not None]
        if not stated:
            return [] if self.model_id == served.model_id else ["model_id"]
        return [field for field in stated if getattr(self, field) != getattr(served, field)]


class LoraShape(ValueObject):
    """What the adapter adds to the base, read from its config and its tensor headers.

    `modules` are the dotted names of the adapted linear layers, without PEFT's prefix.
    `not_servable` gives the reasons why serving cannot apply it; empty when it can.
    """

    kind: Literal["lora", "rslora", "dora", "rsdora"] = "lora"
    r: int = Field(ge=1)
    max_r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    modules: tuple[str, ...]
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    num_parameters: int = Field(ge=1)
    not_servable: tuple[str, ...] = ()

    def rank(self, module: str) -> int:
        """The module's r: the first pattern that fits, or the adapter's own."""
        return _matching(self.rank_pattern, module, self.r)

    @property
    def is_dora(self) -> bool:
        """Whether it gives each output of a layer a magnitude of its own (Liu et al. 2024)."""
        return self.kind in ("dora", "rsdora")

    def scaling(self, module: str) -> float:
        """alpha / r (LoRA, Hu et al. 2021) or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023)."""
        r, alpha = self.rank(module), _matching(self.alpha_pattern, module, self.lora_alpha)
        return alpha / r**0.5 if self.kind in ("rslora", "rsdora") else alpha / r


NumberT = TypeVar("NumberT", int, float)


def _matching(pattern: dict[str, NumberT], module: str, default: NumberT) -> NumberT:
    """A pattern's key is matched like PEFT does: a regular expression on the end of the name."""
    for key, value in pattern.items():
        if fits_end(key, module):
            return value
    return default


class TopTokens(ValueObject):
    """The likeliest next tokens at one position, with their log-probabilities (nats)."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class Probe(ValueObject):
    """One conversation and what the trained model expected at each token of its answer.

    `token_ids` are the rendered prompt and the answer's first tokens; `top[i]` belongs to the
    token at `num_prompt_tokens + i`. A server that replays it finds a wrong base, template,
    tokenizer or scaling, or a damaged file, by its effect.
    """

    messages: tuple[dict[str, str], ...]
    token_ids: tuple[int, ...]
    num_prompt_tokens: int = Field(ge=1)
    top: tuple[TopTokens, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_complete(self) -> Probe:
        if len(self.token_ids) != self.num_prompt_tokens + len(self.top) - 1:
            raise ValueError("a probe has one entry of 'top' for the prompt and each answer token")
        if any(not t.token_ids or len(t.token_ids) != len(t.logprobs) for t in self.top):
            raise ValueError("a probe has one log-probability for each of its top tokens")
        return self


class Lineage(ValueObject):
    """Where a version comes from, as far as its pusher states it; it is not checked.

    A field that is not stated is left out of the JSON. `parent` is `name:number`, for people;
    `parent_digest` is the parent's identity.
    """

    parent: str | None = Field(default=None, exclude_if=_is_none)
    parent_digest: Digest | None = Field(default=None, exclude_if=_is_none)
    dataset_digest: Digest | None = Field(default=None, exclude_if=_is_none)
    """Of the file that was trained on."""
    run: str | None = Field(default=None, min_length=1, max_length=200, exclude_if=_is_none)
    revision: str | None = Field(default=None, min_length=1, max_length=200, exclude_if=_is_none)
    """Of the code that trained."""

    @field_validator("parent")
    @classmethod
    def _is_a_version(cls, parent: str | None) -> str | None:
        try:
            if parent is None or AdapterRef.parse(parent).number is not None:
                return parent
        except InvalidReference as error:
            raise ValueError(error.message) from None
        raise ValueError(f"{parent!r} names no version; expected name:number")

    def over(self, other: Lineage | None) -> Lineage:
        """These statements, and where there is none the other's; parent and digest are one."""
        ours, theirs = self.stated(), other.stated() if other else {}
        if ours.keys() & _PARENT:
            theirs = {key: value for key, value in theirs.items() if key not in _PARENT}
        return Lineage(**{**theirs, **ours})

    def stated(self) -> dict[str, Any]:
        """The fields that say something."""
        return {key: value for key, value in self if value is not None}


_PARENT = frozenset({"parent", "parent_digest"})


def _nothing_stated(lineage: Lineage | None) -> Lineage | None:
    """One form for saying nothing, so that it has one digest."""
    return lineage if lineage is not None and lineage.stated() else None


# Left out of the JSON when nothing is stated: manifests from before it keep their digests.
StatedLineage = Annotated[
    Lineage | None, AfterValidator(_nothing_stated), Field(exclude_if=_is_none)
]


class BundleMetadata(ValueObject):
    """What `hotswap.json` in a PEFT directory says beside the tensors; all of it optional."""

    base: BaseFingerprint | None = None
    prompt: PromptFormat | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    probes: tuple[Probe, ...] = Field(default=(), max_length=MAX_PROBES)
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    lineage: StatedLineage = None


class Manifest(ValueObject):
    """All that one version is: files, base, LoRA shape, prompt format, probes, and what is known
    about it: provenance, metrics, description, tags, lineage."""

    format: Literal["hotswap.manifest.v1"] = "hotswap.manifest.v1"
    files: tuple[Descriptor, ...] = Field(min_length=1)
    base: BaseFingerprint
    lora: LoraShape
    prompt: PromptFormat | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    probes: tuple[Probe, ...] = Field(default=(), max_length=MAX_PROBES)
    description: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    lineage: StatedLineage = None

    @field_validator("files")
    @classmethod
    def _distinct_names(cls, files: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
        """Also when case is ignored, or one file would replace another on some systems."""
        seen: set[str] = set()
        for descriptor in files:
            if (folded := descriptor.file_name.casefold()) in seen:
                raise ValueError(f"two files are named {descriptor.file_name!r}")
            seen.add(folded)
        return files

    def canonical_json(self) -> bytes:
        try:
            data = rfc8785.dumps(self.model_dump(mode="json"))
        except rfc8785.CanonicalizationError as error:
            raise InvalidManifest(f"the manifest has no canonical JSON form: {error}") from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise InvalidManifest(
                f"the manifest is {len(data)} bytes long; at most {MAX_MANIFEST_BYTES} are allowed;"
                " shorten provenance, description or tags"
            )
        return data

    @property
    def digest(self) -> Digest:
        return Digest.of(self.canonical_json())

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest's JSON; raises InvalidManifest with the fields that are wrong."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise InvalidManifest(f"not a manifest: {first_problem(error)}") from None

    def file(self, file_name: str) -> Descriptor:
        for descriptor in self.files:
            if descriptor.file_name == file_name:
                return descriptor
        raise InvalidManifest(
            f"the manifest has no file {file_name!r}; it has "
            + ", ".join(d.file_name for d in self.files)
        )

    @property
    def size_bytes(self) -> int:
        return sum(descriptor.size_bytes for descriptor in self.files)


MAX_FILES = 64


MAX_FILE_BYTES = 16 << 30

"""From the `model` field of a request to what answers it, pinned at that moment.

Refuses what this server cannot apply before anything is fetched or queued, so that a request for
an adapter is never answered by the base in its place.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache

from hotswap.registry.domain.access import Principal
from hotswap.registry.domain.adapters import AdapterRef, AdapterVersion
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import AdapterNotFound
from hotswap.registry.domain.manifest import BaseFingerprint, Manifest
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.serving.aliases.trust import Trust
from hotswap.serving.aliases.version_table import VersionTable
from hotswap.serving.errors import BaseMismatch, NotServable, RankTooHigh
from hotswap.serving.requests.stacks import parse_stack, scaled_text

_MAX_MANIFESTS = 4096


@dataclass(frozen=True, slots=True)
class Applied:
    """An adapter version and the factor of its effect."""

    version: AdapterVersion
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """What answers a request: adapter versions in the order in which they apply; the base alone
    when there are none."""

    prompt: PromptFormat
    applied: tuple[Applied, ...] = ()

    @property
    def version(self) -> AdapterVersion | None:
        """The first adapter's, whose prompt format is used."""
        return self.applied[0].version if self.applied else None

    @property
    def adapters(self) -> tuple[tuple[Digest, float], ...]:
        return tuple((applied.version.manifest_digest, applied.scale) for applied in self.applied)

    @property
    def model(self) -> str | None:
        """The `model` that asks for exactly these versions again."""
        parts = [scaled_text(str(applied.version.ref), applied.scale) for applied in self.applied]
        return " + ".join(parts) or None


@dataclass(frozen=True, slots=True)
class Servable:
    """What this server can apply: its base, the modules it adapts, the rank it has room for."""

    base_name: str
    fingerprint: BaseFingerprint
    modules: Set[str]
    max_lora_rank: int
    max_stacked: int = 1

    def check(self, version: AdapterVersion, manifest: Manifest) -> None:
        """Raises BaseMismatch, RankTooHigh or NotServable, naming the cause."""
        differing = manifest.base.mismatches(self.fingerprint)
        if differing:
            field = differing[0]
            raise BaseMismatch(
                f"{version.ref} was trained on another base: {', '.join(differing)} differs; "
                f"{field} is {getattr(manifest.base, field)} in the adapter (base "
                f"{manifest.base.model_id!r}) and {getattr(self.fingerprint, field)} here "
                f"(base {self.fingerprint.model_id!r})",
                fields=differing,
                param="model",
            )
        if manifest.lora.not_servable:
            raise NotServable(
                f"{version.ref} cannot be applied by this server: "
                + "; ".join(manifest.lora.not_servable),
                param="model",
            )
        if manifest.lora.max_r > self.max_lora_rank:
            raise RankTooHigh(
                f"{version.ref} has rank {manifest.lora.max_r}, this server takes ranks up to "
                f"{self.max_lora_rank}; start it with --max-lora-rank {manifest.lora.max_r}",
                param="model",
            )
        foreign = sorted(set(manifest.lora.modules) - self.modules)
        if foreign:
            raise NotServable(
                f"{version.ref} adapts {foreign[0]}, which this server cannot adapt"
                + (f" (and {len(foreign) - 1} more modules)" if len(foreign) > 1 else ""),
                param="model",
            )


class Resolver:
    """Resolves names through the version table and remembers manifests, which never change."""

    def __init__(
        self,
        registry: AdapterRegistry,
        versions: VersionTable,
        trust: Trust,
        servable: Servable,
        base_prompt: PromptFormat,
    ) -> None:
        self._versions = versions
        self._trust = trust
        self.servable = servable
        self._base_prompt = base_prompt
        self._manifest = lru_cache(_MAX_MANIFESTS)(registry.versions.manifest)

    def require_allowed(self, model: str, principal: Principal) -> None:
        """Raises Forbidden, before anything is looked up, when `infer` does not cover each adapter
        that the model names."""
        if model == self.servable.base_name:
            principal.require("infer", model)
            return
        for part in parse_stack(model, self.servable.max_stacked):
            principal.require("infer", AdapterRef.parse(part.model).name)

    def resolve(self, model: str) -> Target:
        """The base for its own name, else the adapter versions that the references mean now.

        Raises InvalidReference, AdapterNotFound, VersionNotFound, AliasNotFound, NotServable for
        adapters that cannot be stacked, or what Trust.verified and Servable.check raise.
        """
        if model == self.servable.base_name:
            return Target(self._base_prompt)
        parts = parse_stack(model, self.servable.max_stacked)
        resolved = [self._resolve_one(part.model) for part in parts]
        prompts = [manifest.prompt or self._base_prompt for _, manifest in resolved]
        for part, prompt, (version, manifest) in zip(parts, prompts, resolved, strict=True):
            if manifest.lora.is_dora and (part.scale != 1 or len(parts) > 1):
                raise NotServable(
                    f"{version.ref} is a DoRA adapter: it rescales the base, so it has no other "
                    "scale than 1 and cannot be stacked; name it alone",
                    param="model",
                )
            if prompt != prompts[0]:
                raise NotServable(
                    f"{version.ref} has another prompt format than {resolved[0][0].ref}; only "
                    "adapters that were trained with one format can be stacked",
                    param="model",
                )
        scales = [part.scale for part in parts]
        applied = [Applied(v, scale) for (v, _), scale in zip(resolved, scales, strict=True)]
        return Target(prompts[0], tuple(applied))

    def _resolve_one(self, model: str) -> tuple[AdapterVersion, Manifest]:
        ref = AdapterRef.parse(model)
        try:
            pointer = self._versions.pointer(ref)
        except AdapterNotFound as error:
            raise AdapterNotFound(
                f"{error.message}; the base is called {self.servable.base_name!r}",
                **{**error.fields, "param": "model"},
            ) from None
        version = self._trust.verified(ref, pointer)
        manifest = self._manifest(version.manifest_digest)
        self.servable.check(version, manifest)
        return version, manifest

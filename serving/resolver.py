"""From the `model` field of a request to what answers it, pinned at that moment.

Refuses what this server cannot apply before anything is fetched or queued, so that a request for
an adapter is never answered by the base in its place.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache

from registry.access.scopes import Principal
from registry.adapters import AdapterRef, AdapterVersion
from registry.digests import Digest
from registry.errors import AdapterNotFound, BaseMismatch, NotServable, RankTooHigh
from registry.manifest import BaseFingerprint, Manifest
from registry.prompts import PromptFormat
from registry.protocol import AdapterRegistry
from serving.trust import Trust
from serving.version_table import VersionTable

_MAX_MANIFESTS = 4096


@dataclass(frozen=True, slots=True)
class Target:
    """What answers a request: the base alone (`version` is None) or one adapter version."""

    prompt: PromptFormat
    version: AdapterVersion | None = None

    @property
    def adapter(self) -> Digest | None:
        return None if self.version is None else self.version.manifest_digest


@dataclass(frozen=True, slots=True)
class Servable:
    """What this server can apply: its base, the modules it adapts, the rank it has room for."""

    base_name: str
    fingerprint: BaseFingerprint
    modules: Set[str]
    max_lora_rank: int

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
        self._manifest = lru_cache(_MAX_MANIFESTS)(registry.manifest)

    def require_allowed(self, model: str, principal: Principal) -> None:
        """Raises Forbidden, before anything is looked up, when `infer` does not cover the model."""
        is_base = model == self.servable.base_name
        principal.require("infer", model if is_base else AdapterRef.parse(model).name)

    def resolve(self, model: str) -> Target:
        """The base for its own name, else the adapter version the reference means now.

        Raises InvalidReference, AdapterNotFound, VersionNotFound, AliasNotFound or what
        Trust.verified and Servable.check raise.
        """
        if model == self.servable.base_name:
            return Target(self._base_prompt)
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
        return Target(manifest.prompt or self._base_prompt, version)

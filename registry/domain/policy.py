"""Which aliases are protected, and what must hold before one of them moves forward. Pure.

    [[rules]]
    match = "team/*@prod"                # the pattern language of scopes; without '@' every alias
    metrics = ["em"]                     # the version states these metrics
    min = { em = 0.8 }                   # and none is below this
    max_drop = { em = 0.02 }             # nor further below the version it replaces
    base = { weights_digest = "sha256:…" }   # it was trained on this base
    servable = true                      # serving can apply it
    tags = ["reviewed", "stage=final"]   # it carries these tags
    why_min_length = 10                  # the move gives a reason

Every rule that matches must hold. A rule without conditions protects the alias all the same: only
the scope `release:` moves it. A rollback asks for the scope and for no condition.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from hotswap.registry.domain.access import covers, is_alias_pattern
from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import PolicyViolation
from hotswap.registry.domain.manifest import Manifest
from hotswap.registry.domain.values import ValueObject

Score = Annotated[float, Field(allow_inf_nan=False)]
Drop = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Condition(ValueObject):
    """One thing that was asked of a move and what was found; `rule` is None for what every
    alias asks. `to_do` is empty when it holds."""

    rule: str | None = None
    asked: str
    found: str
    holds: bool
    to_do: str = ""


class MovePlan(ValueObject):
    """What a move would do. It is done when every condition holds; `from_number` equal to
    `to_number` means that there is nothing to do."""

    name: str
    alias: str
    sequence: int
    from_number: int | None
    to_number: int
    to_digest: Digest
    is_new_version: bool = False
    allowed: bool
    conditions: tuple[Condition, ...]


class RequiredBase(ValueObject):
    """The fields of the base's fingerprint that must be equal; at least one."""

    model_id: str | None = None
    config_digest: Digest | None = None
    tokenizer_digest: Digest | None = None
    template_digest: Digest | None = None
    weights_digest: Digest | None = None

    @model_validator(mode="after")
    def _states_something(self) -> RequiredBase:
        if not self.stated():
            raise ValueError(f"name at least one of {', '.join(type(self).model_fields)}")
        return self

    def stated(self) -> dict[str, str]:
        return {field: str(value) for field, value in self if value is not None}


class Rule(ValueObject):
    """What must hold before an alias that `match` covers moves forward."""

    match: str
    metrics: tuple[str, ...] = ()
    min: dict[str, Score] = Field(default_factory=dict)
    max_drop: dict[str, Drop] = Field(default_factory=dict)
    base: RequiredBase | None = None
    servable: bool = False
    tags: tuple[str, ...] = ()
    why_min_length: int = Field(0, ge=0, le=2000)

    @field_validator("match")
    @classmethod
    def _is_pattern(cls, text: str) -> str:
        if not is_alias_pattern(text):
            raise ValueError(f"{text!r} is not a pattern of aliases (example: 'team/*@prod')")
        return text

    def judge(
        self, manifest: Manifest, replaced: tuple[int, Manifest] | None, why: str
    ) -> Iterator[Condition]:
        """Every condition; `replaced` is the version the alias points to now."""
        for key in self.metrics:
            yield self._metric(manifest, key)
        for key, least in self.min.items():
            yield self._at_least(manifest, key, Decimal(str(least)), f"{key} of at least {least:g}")
        for key, drop in self.max_drop.items():
            yield self._no_drop(manifest, key, drop, replaced)
        for field, digest in (self.base.stated() if self.base else {}).items():
            yield self._base(manifest, field, digest)
        if self.servable:
            yield self._servable(manifest)
        for tag in self.tags:
            yield self._tag(manifest, tag)
        if self.why_min_length:
            yield self._why(why)

    def _condition(self, asked: str, found: str, holds: bool, to_do: str) -> Condition:
        return Condition(
            rule=self.match, asked=asked, found=found, holds=holds, to_do="" if holds else to_do
        )

    def _metric(self, manifest: Manifest, key: str) -> Condition:
        stated = ", ".join(f"{name}={value:g}" for name, value in sorted(manifest.metrics.items()))
        return self._condition(
            f"the metric {key}",
            f"it states {stated or 'none'}",
            key in manifest.metrics,
            f"evaluate it and push it with --metric {key}=VALUE",
        )

    def _at_least(self, manifest: Manifest, key: str, least: Decimal, asked: str) -> Condition:
        """Compared as decimals, as people wrote them: 0.85 − 0.02 is 0.83 and not a bit more."""
        value = manifest.metrics.get(key)
        if value is None:
            return self._metric(manifest, key).model_copy(update={"asked": asked})
        return self._condition(
            asked,
            f"{key}={value:g}",
            Decimal(str(value)) >= least,
            f"release a version with {key} of at least {least}",
        )

    def _no_drop(
        self, manifest: Manifest, key: str, drop: float, replaced: tuple[int, Manifest] | None
    ) -> Condition:
        """Without anything to compare with the version must only state the metric, so that
        the next one can be compared."""
        asked = f"{key} at most {drop:g} below"
        number, before = (replaced[0], replaced[1].metrics.get(key)) if replaced else (None, None)
        if before is None:
            target = "no version" if number is None else f"version {number}, which states none"
            return self._metric(manifest, key).model_copy(update={"asked": f"{asked} {target}"})
        least = Decimal(str(before)) - Decimal(str(drop))
        return self._at_least(manifest, key, least, f"{asked} version {number} ({before:g})")

    def _base(self, manifest: Manifest, field: str, wanted: str) -> Condition:
        actual = getattr(manifest.base, field)
        return self._condition(
            f"a base with {field} {wanted}",
            f"{field} {actual or 'is not stated'}",
            str(actual) == wanted,
            "train it on that base, or push it with --base FINGERPRINT",
        )

    def _servable(self, manifest: Manifest) -> Condition:
        reasons = manifest.lora.not_servable
        return self._condition(
            "a version that serving can apply",
            "; ".join(reasons) or "it can",
            not reasons,
            "train it without what cannot be served",
        )

    def _tag(self, manifest: Manifest, tag: str) -> Condition:
        key, equals, wanted = tag.partition("=")
        value = manifest.tags.get(key)
        return self._condition(
            f"the tag {tag}",
            f"no tag {key}" if value is None else f"{key}={value}",
            value is not None and (not equals or value == wanted),
            f"push it with --tag {tag if equals else f'{tag}=VALUE'}",
        )

    def _why(self, why: str) -> Condition:
        length = len(why.strip())
        return self._condition(
            f"a reason of at least {self.why_min_length} characters",
            f"{length} characters",
            length >= self.why_min_length,
            "say why with --why",
        )


class ReleasePolicy(ValueObject):
    """All rules. An alias is protected when one matches it, and then each that does must hold."""

    rules: tuple[Rule, ...] = ()

    def matching(self, name: str, alias: str) -> list[Rule]:
        return [rule for rule in self.rules if covers(rule.match, f"{name}@{alias}")]

    def protects(self, name: str, alias: str) -> bool:
        return bool(self.matching(name, alias))

    def compares(self, name: str, alias: str) -> bool:
        """Whether the judgement needs the version that would be replaced."""
        return any(rule.max_drop for rule in self.matching(name, alias))

    def judge(
        self,
        name: str,
        alias: str,
        manifest: Manifest,
        replaced: tuple[int, Manifest] | None,
        why: str,
    ) -> tuple[Condition, ...]:
        """Every condition of every rule that matches; none for an alias that is not protected."""
        rules = self.matching(name, alias)
        return tuple(
            condition for rule in rules for condition in rule.judge(manifest, replaced, why)
        )


def require_all(what: str, conditions: tuple[Condition, ...]) -> None:
    """Raises PolicyViolation that lists every condition that does not hold."""
    failing = [condition for condition in conditions if not condition.holds]
    if failing:
        raise PolicyViolation(
            f"{what}: "
            + "; ".join(
                f"rule {c.rule!r} asks for {c.asked}, found: {c.found} ({c.to_do})" for c in failing
            ),
            conditions=[condition.model_dump(mode="json") for condition in failing],
        )

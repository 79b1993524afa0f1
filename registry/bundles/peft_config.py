"""PEFT's adapter_config.json, held against its schema and against the tensors beside it.

The schema is `peft.LoraConfig` (0.21): a field of another type is refused. A field that is not in
it may come from a newer PEFT; it is kept and listed, because nothing here knows what it does.
"""

from __future__ import annotations

import math
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hotswap.registry.domain.errors import InvalidBundle
from hotswap.registry.domain.manifest import LoraShape
from hotswap.registry.domain.patterns import (
    MAX_MATCHES,
    InvalidPattern,
    check_pattern,
    fits_whole,
)
from hotswap.registry.domain.values import first_problem

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # in front of every module in the file PEFT writes
MAGNITUDE = ".lora_magnitude_vector"  # behind a module: DoRA's magnitude of each output

PATTERNS_S = 1.5
"""How long the patterns of one adapter may be matched; what is slower is refused."""
_Names = list[str] | str | None


class PeftConfig(BaseModel):
    """The fields of a LoRA adapter's config. Strict: JSON has these types already."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    peft_type: str
    r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    task_type: str | None = None
    auto_mapping: dict[str, Any] | None = None
    peft_version: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = True
    target_modules: _Names = None
    exclude_modules: _Names = None
    lora_dropout: float = Field(0.0, ge=0, le=1)
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str | None = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: _Names = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    megatron_config: dict[str, Any] | None = None
    megatron_core: str | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    loftq_config: dict[str, Any] | None = None
    eva_config: dict[str, Any] | None = None
    corda_config: dict[str, Any] | None = None
    lora_ga_config: dict[str, Any] | None = None
    use_dora: bool = False
    velora_config: dict[str, Any] | None = None
    alora_invocation_tokens: list[int] | None = None
    use_qalora: bool = False
    qalora_group_size: int = 16
    monteclora_config: dict[str, Any] | None = None
    layer_replication: list[list[int]] | None = None
    runtime_config: dict[str, Any] | None = None
    lora_bias: bool = False
    target_parameters: list[str] | None = None
    use_bdlora: dict[str, Any] | None = None
    arrow_config: dict[str, Any] | None = None
    kasa_config: dict[str, Any] | None = None
    ensure_weight_tying: bool = False

    @classmethod
    def check(cls, config: dict[str, Any]) -> PeftConfig:
        """Raises InvalidBundle naming the first field that is not as PEFT writes it."""
        if config.get("peft_type") != "LORA":
            raise InvalidBundle(
                f"{CONFIG_FILE}: peft_type is {config.get('peft_type')!r}; only 'LORA' is supported"
            )
        try:
            parsed = cls.model_validate(config)
        except ValidationError as error:
            raise InvalidBundle(f"{CONFIG_FILE}: {first_problem(error)}") from None
        targets = parsed.target_modules
        if isinstance(targets, str):
            _check_pattern("target_modules", targets)
        for key in parsed.rank_pattern or {}:
            _check_pattern("rank_pattern", key)
        for key in parsed.alpha_pattern or {}:
            _check_pattern("alpha_pattern", key)
        return parsed

    @property
    def kind(self) -> str:
        return ("rs" if self.use_rslora else "") + ("dora" if self.use_dora else "lora")

    @property
    def unknown_fields(self) -> list[str]:
        """Fields that PEFT's schema does not have and that are set to something."""
        return sorted(name for name, value in (self.model_extra or {}).items() if value)

    def not_servable(self) -> list[str]:
        """Why serving cannot apply the adapter, in words; empty when it can."""
        reasons = [words for field, words in _UNSUPPORTED_FIELDS.items() if getattr(self, field)]
        if self.bias != "none":
            reasons.append(f"it trains biases (bias={self.bias!r})")
        return reasons

    def targets(self, module: str) -> bool:
        """Whether the config says that the module is adapted, as PEFT decides it."""
        wanted = self.target_modules
        if wanted is None or wanted == "all-linear":
            return True
        if isinstance(wanted, str):
            return fits_whole(wanted, module)
        return any(module == name or module.endswith(f".{name}") for name in wanted)


# Fields whose effect serving does not apply, with the words for the user.
_UNSUPPORTED_FIELDS = {
    "modules_to_save": "it replaces whole modules (modules_to_save)",
    "trainable_token_indices": "it trains embeddings (trainable_token_indices)",
    "layer_replication": "it replicates layers (layer_replication)",
    "lora_bias": "it trains LoRA biases (lora_bias)",
    "alora_invocation_tokens": "it is an activated LoRA (alora_invocation_tokens)",
    "use_qalora": "it is a QA-LoRA adapter (use_qalora)",
    "use_bdlora": "it is a block-diagonal LoRA (use_bdlora)",
    "arrow_config": "it routes between adapters (arrow_config)",
    "kasa_config": "it is a KaSA adapter (kasa_config)",
    "monteclora_config": "it samples its weights (monteclora_config)",
    "target_parameters": "it adapts parameters that are no layers (target_parameters)",
}


def read_lora_shape(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> LoraShape:
    """Hold adapter_config.json against the tensors; raises InvalidBundle where they disagree."""
    parsed = PeftConfig.check(config)
    pairs, other = _lora_pairs(shapes)
    ranks = {module: _rank(module, a, b) for module, (a, b) in pairs.items()}
    if parsed.use_dora:
        other = _without_magnitudes(pairs, shapes, other)
    if not ranks:
        raise InvalidBundle(f"{WEIGHTS_FILE} holds no LoRA weights (no '….lora_A.weight')")
    reasons = parsed.not_servable()
    if other and not reasons:
        reasons.append(f"it holds a tensor that is not a LoRA weight ({other[0]})")
    shape = LoraShape.model_validate(
        {
            "kind": parsed.kind,
            "r": parsed.r,
            "max_r": max(ranks.values()),
            "lora_alpha": parsed.lora_alpha,
            "modules": tuple(sorted(ranks)),
            "rank_pattern": parsed.rank_pattern or {},
            "alpha_pattern": parsed.alpha_pattern or {},
            "num_parameters": sum(math.prod(shape) for shape in shapes.values()),
            "not_servable": tuple(reasons),
        }
    )
    num_patterns = len(shape.rank_pattern) + len(shape.alpha_pattern)
    if num_patterns * len(ranks) > MAX_MATCHES:
        raise InvalidBundle(
            f"{CONFIG_FILE}: {num_patterns} keys of rank_pattern and alpha_pattern for "
            f"{len(ranks)} modules; their product may be {MAX_MATCHES}: write fewer keys that fit "
            "more modules",
            field="rank_pattern",
        )
    ends_at = time.monotonic() + PATTERNS_S
    for module, rank in ranks.items():
        _check_module(module, rank, shape, parsed)
        if time.monotonic() > ends_at:
            raise InvalidBundle(
                f"{CONFIG_FILE}: matching its patterns with {len(ranks)} modules takes more than "
                f"{PATTERNS_S:g} s; write fewer or shorter patterns",
                field="rank_pattern",
            )
    return shape


def _check_module(module: str, rank: int, shape: LoraShape, config: PeftConfig) -> None:
    if rank != (stated := shape.rank(module)):
        raise InvalidBundle(
            f"{WEIGHTS_FILE}: {module} has rank {rank}, but {CONFIG_FILE} says {stated} "
            f"(r={shape.r}, rank_pattern={shape.rank_pattern})"
        )
    if not config.targets(module):
        raise InvalidBundle(
            f"{WEIGHTS_FILE} adapts {module}, but {CONFIG_FILE} names other target_modules: "
            f"{config.target_modules}; the two files are not of one adapter"
        )


def _check_pattern(field: str, pattern: str) -> None:
    try:
        check_pattern(pattern)
    except InvalidPattern as error:
        raise InvalidBundle(
            f"{CONFIG_FILE}: {field}: {pattern[:80]!r} cannot be matched: {error}; patterns are "
            "regular expressions of RE2, which has neither lookaround nor backreferences",
            field=field,
        ) from None


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


def _without_magnitudes(
    pairs: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
    shapes: dict[str, tuple[int, ...]],
    other: list[str],
) -> list[str]:
    """The other tensors' names but for DoRA's magnitudes, one vector a module."""
    names = {f"{PEFT_PREFIX}{module}{MAGNITUDE}": b[0] for module, (_, b) in pairs.items()}
    for name, num_out in names.items():
        if shapes.get(name) != (num_out,):
            raise InvalidBundle(
                f"{WEIGHTS_FILE}: {name} has the shape {shapes.get(name)}; {CONFIG_FILE} says that "
                f"the adapter is a DoRA (use_dora), which has ({num_out},) there"
            )
    return [name for name in other if name not in names]


def _rank(module: str, a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """The r of A (r, in) and B (out, r)."""
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] < 1:
        raise InvalidBundle(
            f"{WEIGHTS_FILE}: {module} has A of shape {a} and B of shape {b}; "
            "expected (r, in) and (out, r)"
        )
    return a[0]

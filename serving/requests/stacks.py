"""The `model` field of a request: one adapter, one with a scale, or several that are stacked.

    team/sql@prod               as it is
    team/sql@prod*0.5           half of its effect
    team/sql:7*0.8 + team/tone  both effects added up, in this order

A string, so that every OpenAI client can send it. Pure.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from hotswap.registry.domain.errors import InvalidReference

MAX_SCALE = 100.0
_FACTOR = re.compile(r"-?[0-9]{1,4}(\.[0-9]{1,12})?")


@dataclass(frozen=True, slots=True)
class ScaledName:
    """One adapter's reference, as the request has it, and the factor of its effect."""

    model: str
    scale: float = 1.0


def parse_stack(model: str, max_names: int) -> tuple[ScaledName, ...]:
    """At least one; raises InvalidReference when a part is missing or a scale is no number."""
    parts = [part.strip() for part in model.split("+")]
    if len(parts) > max_names:
        raise InvalidReference(
            f"the request stacks {len(parts)} adapters, this server takes up to {max_names}; name "
            "fewer, or start it with a higher --max-loras-per-request",
            param="model",
        )
    return tuple(_scaled_name(model, part) for part in parts)


def scaled_text(model: str, scale: float) -> str:
    """What `parse_stack` reads as this model with this scale."""
    return model if scale == 1 else f"{model}*{scale:.12f}".rstrip("0").rstrip(".")


def _scaled_name(model: str, part: str) -> ScaledName:
    name, star, factor = (piece.strip() for piece in part.partition("*"))
    if not star:
        return ScaledName(name)
    if _FACTOR.fullmatch(factor) is None or not math.fabs(float(factor)) <= MAX_SCALE:
        raise InvalidReference(
            f"in model {model[:200]!r}: {factor[:50]!r} is not a scale; use a decimal number from "
            f"-{MAX_SCALE:g} to {MAX_SCALE:g} (example: 'team/sql@prod*0.5')",
            param="model",
        )
    return ScaledName(name, float(factor))

"""The form of every value that is read from outside, and what a validation error says first."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class ValueObject(BaseModel):
    """Invariant: it never changes, and it has no field that its class does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def first_problem(error: ValidationError) -> str:
    """One line for a person: the first field that is wrong and how many more there are."""
    problems = error.errors(include_url=False)
    where = ".".join(str(part) for part in problems[0]["loc"]) or "document"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {problems[0]['msg']}{more}"

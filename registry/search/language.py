"""The language of `hotswap ls --filter`: its grammar, its fields, and what an expression is. Pure.

    expression  = conjunction { "or" conjunction }
    conjunction = term { "and" term }
    term        = "not" term | "(" expression ")" | comparison
    comparison  = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" ) value
                | field "in" "(" value { "," value } ")"
    value       = a number | text in '…' or "…", where a backslash takes the next character as it is

    field       number    number, lora.r, lora.alpha, metrics.<key>
                time      created: an ISO 8601 date or time, UTC unless it says otherwise
                text      name, by, base, lora.kind, description, state, alias, tag.<key>,
                          lineage.parent, .parent_digest, .dataset_digest, .run, .revision

A key that is no plain word is quoted: metrics."em @ 1". `~` matches a whole text against a pattern
in which `*` stands for any characters. A comparison with what a version does not have is false, and
`a != b` means `not a = b`. Of an alias, any that points to the version now counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operator = Literal["=", "<", "<=", ">", ">=", "~", "in"]
Value = str | float
Kind = Literal["number", "text", "time"]

# Field → kind; of the keyed ones the part before the point.
# By name; of the keyed ones by the part before the point.
FIELDS: dict[str, Kind] = {
    **dict.fromkeys(("number", "lora.r", "lora.alpha"), "number"),
    "created": "time",
    **dict.fromkeys(("name", "by", "base", "lora.kind", "description", "state", "alias"), "text"),
    **dict.fromkeys(
        (
            f"lineage.{field}"
            for field in ("parent", "parent_digest", "dataset_digest", "run", "revision")
        ),
        "text",
    ),
}
KEYED_FIELDS: dict[str, Kind] = {"metrics": "number", "tag": "text"}


@dataclass(frozen=True, slots=True)
class Predicate:
    """One field against values. Invariant: every value is of the field's kind; only `in` has
    several. Times are seconds since 1970."""

    field: str
    operator: Operator
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Not:
    inner: Expression


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Expression, ...]


Expression = Predicate | Not | And | Or


def mentions(expression: Expression, field: str) -> bool:
    match expression:
        case Predicate():
            return expression.field == field
        case Not():
            return mentions(expression.inner, field)
        case _:
            return any(mentions(part, field) for part in expression.parts)

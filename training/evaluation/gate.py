"""What must hold before an alias moves: `em >= 0.9 and em >= prod.em - 0.01`.

A bare name is a metric of what is evaluated, `base.X` the base's, `prod.X` that of the version
another alias points to. Comparisons, and, or, not, +, -, * and numbers; nothing else is a
requirement, and nothing is executed. Numbers are compared as decimals, as the policy does.

A comparison with an alias that does not exist yet is undecided (Kleene's third truth value), and
what stays undecided holds: a first version has nothing to be worse than.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.policy import Condition

MAX_LENGTH = 500
OWN = ""
"""The source of a bare name."""

Values = Mapping[str, Mapping[str, float] | None]
"""Metrics by source; None for an alias that points nowhere."""

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


@dataclass(frozen=True)
class Requirement:
    """Invariant: the tree holds only what `judge` knows, so that it cannot fail on any values."""

    text: str
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Raises InvalidRequest naming the part that is no requirement."""
        if len(text) > MAX_LENGTH:
            raise InvalidRequest(f"the requirement has more than {MAX_LENGTH} characters")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise _refusal(text, str(error)) from None
        _check_truth(text, tree)
        return cls(text.strip(), tree)

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Every (source, metric) that is asked for, in the order in which they are written."""
        return tuple(dict.fromkeys(_names(self._tree)))

    @property
    def sources(self) -> tuple[str, ...]:
        """What the evaluated is compared with: `base`, aliases."""
        return tuple(dict.fromkeys(source for source, _ in self.names if source != OWN))

    def require_known(self, metrics: tuple[str, ...]) -> None:
        """Raises InvalidRequest for a metric that will not be measured."""
        for source, metric in self.names:
            if metric not in metrics:
                name = _written(source, metric)
                raise _refusal(self.text, f"{name} is not measured; known: {', '.join(metrics)}")

    def judge(self, values: Values) -> Condition:
        """Whether it holds, and every value that was looked at.

        A value that could not be measured (it is not there) lets nothing hold.
        """
        unmeasured = [
            _written(source, metric)
            for source, metric in self.names
            if (of_source := values.get(source)) is not None and metric not in of_source
        ]
        holds = not unmeasured and _truth(self._tree, values) is not False
        return Condition(
            asked=self.text,
            found=", ".join(_stated(source, metric, values) for source, metric in self.names),
            holds=holds,
            to_do="" if holds else "train a better version, or require less",
        )


def _refusal(text: str, problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"the requirement {text[:MAX_LENGTH]!r}: {problem}; example: 'em >= 0.9 and em >= prod.em'",
        param="require",
    )


def _check_truth(text: str, node: ast.expr) -> None:
    match node:
        case ast.BoolOp(values=parts):
            for part in parts:
                _check_truth(text, part)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            _check_truth(text, inner)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(
            type(op) in _COMPARISONS for op in ops
        ):
            for part in (left, *others):
                _check_number(text, part)
        case _:
            raise _refusal(text, f"{ast.unparse(node)!r} is no comparison")


def _check_number(text: str, node: ast.expr) -> None:
    match node:
        case ast.Name() | ast.Attribute(value=ast.Name()):
            return
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            if not Decimal(str(value)).is_finite():
                raise _refusal(text, f"{ast.unparse(node)} is too large")
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            _check_number(text, inner)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            _check_number(text, left)
            _check_number(text, right)
        case _:
            raise _refusal(text, f"{ast.unparse(node)!r} is neither a metric nor a number")


def _names(tree: ast.expr) -> Iterator[tuple[str, str]]:
    for node in _in_order(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=source), attr=metric):
                yield source, metric
            case ast.Name(id=metric):
                yield OWN, metric


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes from left to right, but not what is inside of an attribute."""
    yield node
    if not isinstance(node, ast.Attribute):
        for inner in ast.iter_child_nodes(node):
            yield from _in_order(inner)


def _truth(node: ast.expr, values: Values) -> bool | None:
    match node:
        case ast.BoolOp(op=op, values=parts):
            decides = isinstance(op, ast.Or)  # one True decides `or`, one False `and`
            truths = [_truth(part, values) for part in parts]
            if decides in truths:
                return decides
            return None if None in truths else not decides
        case ast.UnaryOp(operand=inner):
            negated = _truth(inner, values)
            return None if negated is None else not negated
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _compared([_number(part, values) for part in (left, *others)], ops)
    raise AssertionError("unreachable: the tree was checked")


def _compared(numbers: list[Decimal | None], ops: list[ast.cmpop]) -> bool | None:
    truths: list[bool | None] = []
    for one, op, other in zip(numbers, ops, numbers[1:], strict=False):
        is_known = one is not None and other is not None
        truths.append(_COMPARISONS[type(op)](one, other) if is_known else None)
    if False in truths:
        return False
    return None if None in truths else True


def _number(node: ast.expr, values: Values) -> Decimal | None:
    match node:
        case ast.Constant(value=int() | float() as value):
            return Decimal(str(value))
        case ast.Name(id=metric):
            return _value(values, OWN, metric)
        case ast.Attribute(value=ast.Name(id=source), attr=metric):
            return _value(values, source, metric)
        case ast.UnaryOp(operand=inner):
            number = _number(inner, values)
            return None if number is None else -number
        case ast.BinOp(left=left, op=op, right=right):
            one, other = _number(left, values), _number(right, values)
            return None if one is None or other is None else _ARITHMETIC[type(op)](one, other)
    raise AssertionError("unreachable: the tree was checked")


def _value(values: Values, source: str, metric: str) -> Decimal | None:
    of_source = values.get(source)
    return None if of_source is None else Decimal(str(of_source[metric]))


def _stated(source: str, metric: str, values: Values) -> str:
    of_source = values.get(source)
    if of_source is None:
        return f"{_written(source, metric)}: there is no {source} yet"
    if metric not in of_source:
        return f"{_written(source, metric)} could not be measured"
    return f"{_written(source, metric)}={of_source[metric]:g}"


def _written(source: str, metric: str) -> str:
    return f"{source}.{metric}" if source else metric

"""Reads the text of a filter (the grammar is in `registry.search.language`). Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from hotswap.registry.domain.errors import InvalidFilter
from hotswap.registry.search.language import (
    FIELDS,
    KEYED_FIELDS,
    And,
    Expression,
    Kind,
    Not,
    Or,
    Predicate,
    Value,
)

MAX_LENGTH = 2000
MAX_COMPARISONS = 50
MAX_DEPTH = 50

_WORDS = frozenset({"and", "or", "not", "in"})
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<word>[A-Za-z_][A-Za-z0-9_./-]*)
    | (?P<sign><=|>=|!=|[=<>~(),])
    | (?P<end>$)
    )""",
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str
    column: int  # from 1


def parse_filter(text: str) -> Expression:
    """Raises InvalidFilter with the column of what is wrong."""
    if len(text) > MAX_LENGTH:
        raise InvalidFilter(f"the filter has {len(text)} characters; at most {MAX_LENGTH}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refusal(error.start + 1, "a character that is no Unicode text") from None
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over the tokens; one method a rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0
        self._num_comparisons = 0

    def whole(self) -> Expression:
        expression = self._expression()
        if self._next.kind != "end":
            raise self._unexpected("'and', 'or' or the end")
        return expression

    def _expression(self) -> Expression:
        parts = [self._conjunction()]
        while self._took("or"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self) -> Expression:
        parts = [self._term()]
        while self._took("and"):
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _term(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(self._next.column, f"nested more than {MAX_DEPTH} deep")
        if self._took("not"):
            term: Expression = Not(self._term())
        elif self._took("("):
            term = self._expression()
            self._need(")")
        else:
            term = self._comparison()
        self._depth -= 1
        return term

    def _comparison(self) -> Expression:
        self._num_comparisons += 1
        if self._num_comparisons > MAX_COMPARISONS:
            raise _refusal(self._next.column, f"more than {MAX_COMPARISONS} comparisons")
        field, kind = self._field()
        sign = self._take()
        match sign.text if sign.kind in ("sign", "word") else "":
            case "in":
                self._need("(")
                values = [self._value(field, kind)]
                while self._took(","):
                    values.append(self._value(field, kind))
                self._need(")")
                return Predicate(field, "in", tuple(values))
            case "!=":
                return Not(Predicate(field, "=", (self._value(field, kind),)))
            case "~" if kind != "text":
                raise _refusal(sign.column, f"{field} is a {kind}; '~' compares texts")
            case "=" | "<" | "<=" | ">" | ">=" | "~" as operator:
                return Predicate(field, operator, (self._value(field, kind),))
        raise _refusal(sign.column, f"expected =, !=, <, <=, >, >=, ~ or in, found {_shown(sign)}")

    def _field(self) -> tuple[str, Kind]:
        token = self._take()
        if token.kind != "word" or token.text in _WORDS:
            raise _refusal(token.column, f"expected a field, found {_shown(token)}")
        path = token.text
        if path.endswith(".") and self._next.kind == "text":
            path += _unquoted(self._take().text)
        kind = FIELDS.get(path)
        section, dot, key = path.partition(".")
        if dot and key:
            kind = kind or KEYED_FIELDS.get(section)
        if kind is None:
            known = ", ".join([*FIELDS, *(f"{section}.<key>" for section in KEYED_FIELDS)])
            raise _refusal(token.column, f"there is no field {path[:100]!r}; there is {known}")
        return path, kind

    def _value(self, field: str, kind: Kind) -> Value:
        token = self._take()
        if kind == "number" and token.kind == "number":
            return float(token.text)
        if kind != "number" and token.kind == "text":
            text = _unquoted(token.text)
            return text if kind == "text" else _seconds(text, token.column)
        wanted = {
            "number": "a number without quotes",
            "text": 'a text in quotes ("…")',
            "time": 'a date or time in quotes ("2026-11-24")',
        }[kind]
        raise _refusal(token.column, f"{field} is compared with {wanted}, found {_shown(token)}")

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at = min(self._at + 1, len(self._tokens) - 1)  # the end stays
        return token

    def _took(self, text: str) -> bool:
        took = self._next.kind in ("word", "sign") and self._next.text == text
        if took:
            self._at += 1
        return took

    def _need(self, text: str) -> None:
        if not self._took(text):
            raise self._unexpected(repr(text))

    def _unexpected(self, expected: str) -> InvalidFilter:
        return _refusal(self._next.column, f"expected {expected}, found {_shown(self._next)}")


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while not tokens or tokens[-1].kind != "end":
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise _refusal(at + 1, f"{text[at]!r} begins no word, number, text or sign")
        kind = str(match.lastgroup)
        tokens.append(_Token(kind, match[kind], match.start(kind) + 1))
        at = match.end()
    return tokens


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


def _seconds(text: str, column: int) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        problem = f"{text[:50]!r} is no ISO 8601 date or time (example: 2026-11-24T09:30Z)"
        raise _refusal(column, problem) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _shown(token: _Token) -> str:
    return "the end" if token.kind == "end" else token.text[:50]


def _refusal(column: int, problem: str) -> InvalidFilter:
    return InvalidFilter(f"filter, column {column}: {problem}", param="filter", column=column)

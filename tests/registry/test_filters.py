"""The language of filters: what is read, and where an error is said to be."""

from __future__ import annotations

import pytest

from hotswap.registry.domain.errors import InvalidFilter
from hotswap.registry.search.language import And, Not, Or, Predicate
from hotswap.registry.search.parser import MAX_COMPARISONS, MAX_DEPTH, MAX_LENGTH, parse_filter
from tests.refusals import refused

EM = Predicate("metrics.em", ">", (0.8,))
TEAM = Predicate("tag.team", "=", ("x",))
THIRD = Predicate("number", "=", (3.0,))


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ('metrics.em > 0.8 and tag.team = "x"', And((EM, TEAM))),
        ("metrics.em>.8and tag.team='x'", And((EM, TEAM))),
        ("number=3 or metrics.em>8e-1 and tag.team='x'", Or((THIRD, And((EM, TEAM))))),
        ("(number=3 or metrics.em>0.8) and tag.team='x'", And((Or((THIRD, EM)), TEAM))),
        ("not number = 3 and metrics.em > 0.8", And((Not(THIRD), EM))),
        ("not (number = 3 and metrics.em > 0.8)", Not(And((THIRD, EM)))),
        ("number != 3", Not(THIRD)),
        ("number in (1, 2)", Predicate("number", "in", (1.0, 2.0))),
        ("metrics.a.b/c-d <= -1", Predicate("metrics.a.b/c-d", "<=", (-1.0,))),
        ('tag."a \\"b\\" and" ~ "*"', Predicate('tag.a "b" and', "~", ("*",))),
        (r"description = 'it\'s \\ \n'", Predicate("description", "=", ("it's \\ n",))),
        ('created >= "1970-01-02"', Predicate("created", ">=", (86400.0,))),
        ('created < "1970-01-01T01:00+01:00"', Predicate("created", "<", (0.0,))),
        ('created < "1970-01-01T00:00:01.5"', Predicate("created", "<", (1.5,))),
        ("\n alias\t~ 'a*' ", Predicate("alias", "~", ("a*",))),
    ],
)
def test_text_means(text: str, expression: object) -> None:
    assert parse_filter(text) == expression


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "expected a field, found the end"),
        ("metrics.em >", 13, "a number without quotes, found the end"),
        ("metrics.em > 'a'", 14, "metrics.em is compared with a number without quotes"),
        ("tag.team = 3", 12, "tag.team is compared with a text in quotes"),
        ("number = 3 number = 4", 12, "expected 'and', 'or' or the end, found number"),
        ("number = 3 and", 15, "expected a field, found the end"),
        ("(number = 3", 12, "expected ')', found the end"),
        ("number = 3)", 11, "expected 'and', 'or' or the end, found )"),
        ("number in 3", 11, "expected '(', found 3"),
        ("number in ()", 12, "a number without quotes, found )"),
        ("number 3", 8, "expected =, !=, <, <=, >, >=, ~ or in, found 3"),
        ("number ~ 3", 8, "number is a number"),
        ("not and", 5, "expected a field, found and"),
        ("metric.em = 3", 1, "there is no field 'metric.em'; there is number"),
        ("metrics. = 3", 1, "there is no field 'metrics.'"),
        ("lineage.rum = 'x'", 1, "there is no field 'lineage.rum'"),
        ("name = 'abc", 8, "begins no word, number, text or sign"),
        ("name  ; 'abc'", 7, "';' begins no word"),
        ("created > '24.11.2026'", 11, "no ISO 8601 date or time"),
        ("name = '\ud800'", 9, "no Unicode text"),
        ("(" * (MAX_DEPTH + 1), MAX_DEPTH + 1, f"nested more than {MAX_DEPTH} deep"),
        (" or ".join(["number=1"] * 60), 12 * MAX_COMPARISONS + 1, "more than 50 comparisons"),
    ],
)
def test_error_names_the_column(text: str, column: int, words: str) -> None:
    with pytest.raises(InvalidFilter) as error:
        parse_filter(text)
    assert error.value.message.startswith(f"filter, column {column}: ")
    assert error.value.fields["column"] == column
    assert words in error.value.message


def test_filter_that_is_too_long_is_refused() -> None:
    with refused(InvalidFilter, "2000"):
        parse_filter("x" * (MAX_LENGTH + 1))


def test_what_is_nested_just_deep_enough_is_read() -> None:
    depth = MAX_DEPTH - 1
    assert parse_filter("(" * depth + "number = 3" + ")" * depth) == THIRD

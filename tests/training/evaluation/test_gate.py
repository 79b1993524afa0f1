from __future__ import annotations

import pytest

from hotswap.registry.domain.errors import InvalidRequest
from hotswap.training.evaluation.gate import Requirement
from tests.refusals import refused

VALUES = {
    "": {"em": 0.83, "loss": 0.4},
    "base": {"em": 0.1, "loss": 2.0},
    "prod": {"em": 0.85},
    "canary": None,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("em >= 0.83", True),
        ("em > 0.83", False),
        ("0.8 <= em < 0.9", True),
        ("0.8 <= em < 0.82", False),
        ("em >= prod.em - 0.02", True),  # 0.85 - 0.02 is above 0.83 in binary
        ("em >= prod.em", False),
        ("em >= prod.em or em >= 8 * base.em", True),
        ("em >= 0.5 and loss < base.loss and not em == prod.em", True),
        ("-em <= -0.8 and loss != 1", True),
    ],
)
def test_a_requirement_holds_or_not(text: str, holds: bool) -> None:
    found = Requirement.parse(text).judge(VALUES)

    assert (found.asked, found.holds) == (text, holds)
    assert bool(found.to_do) is not holds


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("em >= canary.em", True),
        ("not em < canary.em", True),
        ("em >= 0.9 and em >= canary.em", False),
        ("em >= 0.8 or em >= canary.em", True),
        ("em >= 0.9 or em >= canary.em", True),
        ("0.9 < em < canary.em", False),
    ],
)
def test_an_alias_that_does_not_exist_yet_stops_nothing(text: str, holds: bool) -> None:
    found = Requirement.parse(text).judge(VALUES)

    assert found.holds is holds
    assert "canary.em: there is no canary yet" in found.found


def test_every_value_is_told_in_the_order_of_the_text() -> None:
    found = Requirement.parse("em >= 0.8 and prod.em < 1 and em > base.em").judge(VALUES)

    assert found.found == "em=0.83, prod.em=0.85, base.em=0.1"


@pytest.mark.parametrize("text", ["prod.loss > 0", "not prod.loss > 0"])
def test_what_could_not_be_measured_lets_nothing_hold(text: str) -> None:
    found = Requirement.parse(text).judge(VALUES)

    assert not found.holds
    assert found.found == "prod.loss could not be measured"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "em",
        "0.9",
        "em >= ",
        "em + 1",
        "em >= True",
        "em >= 'x'",
        "em >= 1e999",
        "em >= 1j",
        "em in base",
        "em is 1",
        "em >= base.em.real",
        "em >= max(1, 2)",
        "__import__('os').system('true') == 0",
        "(lambda: em)() > 1",
        "em >= prod['em']",
        "em ** 9 > 1",
        "em / 0 > 1",
        "(em := 1) > 0",
        "em > 1 if em else em > 2",
        "[em] > [1]",
        "em >= 0\nem >= 1",
        "(" * 400 + "em" + ")" * 400 + " > 1",
        "not " * 100 + "em",
    ],
)
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with refused(InvalidRequest, "requirement"):
        Requirement.parse(text)


def test_a_metric_that_is_not_measured_is_named() -> None:
    requirement = Requirement.parse("em > 0.5 and prod.accuracy > em")

    assert requirement.sources == ("prod",)
    with refused(InvalidRequest, "prod.accuracy", "em, f1"):
        requirement.require_known(("em", "f1"))

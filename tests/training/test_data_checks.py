from __future__ import annotations

import pytest

from registry.errors import InvalidData
from registry.prompts import PromptFormat
from serving.base_model import BaseDirectory
from tests.training.rows import examples_of, tokenized
from training.data.checks import Severity, check_examples, check_lengths, refuse

GOOD = {"question": "a", "answer": "b"}


def test_good_rows_give_no_findings() -> None:
    assert check_examples(examples_of([GOOD, {"question": "c", "answer": "b"}])) == []


def test_an_empty_answer_is_an_error_with_its_line() -> None:
    (finding,) = check_examples(examples_of([GOOD, {"question": "c", "answer": " \n"}]))

    assert (finding.code, finding.severity) == ("empty_answer", Severity.ERROR)
    assert finding.where == "rows.jsonl:2"


def test_a_repeated_row_is_a_warning_that_names_the_first() -> None:
    (finding,) = check_examples(examples_of([GOOD, GOOD]))

    assert (finding.code, finding.severity) == ("duplicate", Severity.WARNING)
    assert "rows.jsonl:1" in finding.text


def test_one_input_with_two_answers_is_a_contradiction() -> None:
    (finding,) = check_examples(examples_of([GOOD, {"question": "a", "answer": "c"}]))

    assert (finding.code, finding.severity) == ("contradiction", Severity.WARNING)


def test_a_validation_row_that_is_trained_on_is_a_leak() -> None:
    (finding,) = check_examples(
        examples_of([GOOD]), examples_of([{"question": "a", "answer": "another"}])
    )

    assert (finding.code, finding.severity) == ("leak", Severity.WARNING)


def test_too_long_rows_are_listed(base: BaseDirectory, prompt: PromptFormat) -> None:
    rows = tokenized(6, prompt, base)
    lengths = sorted(len(row.ids) for row in rows)

    findings = check_lengths(rows, lengths[2])

    too_long = [str(row.place) for row in rows if len(row.ids) > lengths[2]]
    assert [finding.where for finding in findings] == too_long


def test_errors_are_refused_and_warnings_are_not() -> None:
    warnings = check_examples(examples_of([GOOD, GOOD]))
    errors = check_examples(examples_of([{"question": "a", "answer": ""}] * 12))

    refuse(warnings)
    with pytest.raises(InvalidData, match=r"12 errors.*rows.jsonl:10.*and 2 more") as caught:
        refuse(errors)

    assert caught.value.fields["codes"] == ["empty_answer"]

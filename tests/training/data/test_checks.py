from __future__ import annotations

from pathlib import Path

import pytest

from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.data.checks.examples import check_examples
from hotswap.training.data.checks.findings import Finding, Severity, refuse
from hotswap.training.data.example import Example, Place
from hotswap.training.data.tokens import check_lengths, rendered
from hotswap.training.errors import InvalidData
from hotswap.training.prepare import prepare
from hotswap.training.spec import TrainingSpec
from tests.refusals import refused
from tests.tiny_base import with_unembedded_token
from tests.training.conftest import WriteRows
from tests.training.rows import examples_of, tokenized

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


def test_an_empty_question_is_a_warning_with_its_line() -> None:
    (finding,) = check_examples(examples_of([GOOD, {"question": " \n", "answer": "b"}]))

    assert (finding.code, finding.severity) == ("empty_question", Severity.WARNING)
    assert finding.where == "rows.jsonl:2"


@pytest.mark.parametrize("label", ["n/a", "Unknown", " none ", "null", "-"])
def test_labels_that_are_none_are_told_among_classes_only(label: str) -> None:
    rows = [{"question": f"{i * 7919} asks", "answer": "yn"[i % 2]} for i in range(40)]
    rows[7]["answer"] = rows[30]["answer"] = label

    found = [f for f in check_examples(examples_of(rows)) if f.code == "no_label"]
    assert [(f.severity, f.where) for f in found] == [(Severity.WARNING, "rows.jsonl:8")]
    assert "lines 8, 31" in found[0].text

    free = [{**row, "answer": f"{row['answer']} {i}"} for i, row in enumerate(rows)]
    free[7]["answer"] = label
    assert "no_label" not in {f.code for f in check_examples(examples_of(free))}


def test_rows_held_back_without_a_label_are_told_too() -> None:
    rows = [{"question": f"{i * 7919} asks", "answer": "yn"[i % 2]} for i in range(40)]
    test = examples_of([{"question": "something else", "answer": "N/A"}], "test.jsonl")

    found = [f for f in check_examples(examples_of(rows), (), test) if f.code == "no_label"]

    assert [f.where for f in found] == ["test.jsonl:1"]


# Refuses rows with "refused", and cuts " cut " out of history.
STRICT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if 'refused' in m['content'] %}{{ raise_exception('no refused words') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'].replace(' cut ', ' ') }}"
    "{{ '<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant\n' }}"
)


def test_rows_that_cannot_be_rendered_are_listed_and_the_others_go_on(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    strict = prompt.model_copy(update={"chat_template": STRICT_TEMPLATE})
    good, refused = examples_of([GOOD, {"question": "refused", "answer": "b"}])
    two_turns = (
        *({"role": "user", "content": "a"}, {"role": "assistant", "content": "b cut c"}),
        *({"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}),
    )
    dropped = Example(two_turns, Place("rows.jsonl", 3))

    found = [row for _, row in rendered([refused, dropped, good], strict, base)]

    assert [isinstance(row, Finding) for row in found] == [True, True, False]
    refusal, drop = (row for row in found if isinstance(row, Finding))
    assert (refusal.code, refusal.severity) == ("not_rendered", Severity.ERROR)
    assert (refusal.where, drop.where) == ("rows.jsonl:2", "rows.jsonl:3")
    assert "no refused words" in refusal.text
    assert drop.text.startswith("messages[3]: the chat template does not keep")


def test_a_row_with_a_token_that_the_model_does_not_embed_is_listed(
    base: BaseDirectory, tmp_path: Path
) -> None:
    wordy = with_unembedded_token(base, "<pad>", tmp_path)
    rows = examples_of([GOOD, {"question": "what is <pad>?", "answer": "b"}])
    row, finding = (found for _, found in rendered(rows, wordy.prompt_format(), wordy))
    assert not isinstance(row, Finding)
    assert isinstance(finding, Finding)
    assert (finding.code, finding.severity) == ("not_embedded", Severity.ERROR)
    assert finding.where == "rows.jsonl:2"
    last = base.num_words
    assert f"has the token '<pad>' (id {last})" in finding.text
    assert f"(ids 0 to {last - 1})" in finding.text


def test_training_refuses_all_rows_that_cannot_be_rendered_at_once(
    base: BaseDirectory, write_rows: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = base.prompt_format()
    strict = given.model_copy(update={"chat_template": STRICT_TEMPLATE})
    monkeypatch.setattr(BaseDirectory, "prompt_format", lambda *_, **__: strict)
    rows = [{"question": f"{w} {i}", "answer": "x"} for i in range(9) for w in ("ask", "refused")]
    data = write_rows(rows)

    prepared = prepare(TrainingSpec(base=str(base.path), data=data, r=2), base)

    with refused(InvalidData, "9 errors") as caught:
        refuse(prepared.findings)
    assert caught.value.fields["codes"] == ["not_rendered"]
    assert len(prepared.train) + len(prepared.validation) == 9


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
    with refused(InvalidData, "12 errors", "rows.jsonl:10", "2 more") as caught:
        refuse(errors)

    assert caught.value.fields["codes"] == ["empty_answer"]

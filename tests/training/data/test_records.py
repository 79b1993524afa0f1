from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hotswap.training.data.formats.files import read_examples
from hotswap.training.errors import InvalidData
from tests.refusals import refused
from tests.training.conftest import WriteRows

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}


def test_a_question_and_an_answer_become_two_messages(write_rows: WriteRows) -> None:
    (example,) = read_examples(write_rows([{"question": "hi", "answer": "hello"}]))

    assert example.messages == (USER, ANSWER)
    assert str(example.place) == "rows.jsonl:1"


def test_a_chat_keeps_its_messages_in_order(write_rows: WriteRows) -> None:
    messages = [{"role": "system", "content": "s"}, USER, ANSWER, USER, ANSWER]

    (example,) = read_examples(write_rows([{"messages": messages}]))

    assert list(example.messages) == messages


def test_lines_are_counted_over_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\n \n{"question": "a", "answer": "b"}\n\n')

    assert [example.place.line for example in read_examples(path)] == [3]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "a", "answer": "b"}')

    assert len(read_examples(path)) == 1


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ({"question": "a"}, "answer", "missing"),
        ({"question": 3, "answer": "b"}, "question", "expected text, found int"),
        ({"question": "a", "answer": "b", "weight": 1}, "weight", "unknown field"),
        ({"question": "a\ud800", "answer": "b"}, "question", "surrogate"),
        ({"messages": []}, "messages", "not empty"),
        ({"messages": "hi"}, "messages", "list"),
        ({"messages": [USER, "x"]}, "messages[1]", "expected an object, found str"),
        ({"messages": [USER, {"role": "bot", "content": ""}]}, "messages[1].role", "'bot'"),
        ({"messages": [USER, {"role": "assistant"}]}, "messages[1].content", "missing"),
        ({"messages": [USER, ANSWER, USER]}, "messages[2].role", "no answer to learn"),
        ({"messages": [ANSWER]}, "messages[0].role", "follow a user message"),
        (
            {"messages": [USER, {"role": "system", "content": ""}, ANSWER]},
            "messages[1].role",
            "first",
        ),
    ],
)
def test_an_error_names_file_line_and_field(
    write_rows: WriteRows, row: dict[str, Any], field: str, words: str
) -> None:
    good = {"question": "good", "answer": "row"}
    path = write_rows([{"messages": [USER, ANSWER]} if "messages" in row else good, row])

    with refused(InvalidData, "rows.jsonl:2") as caught:
        read_examples(path)

    assert caught.value.fields == {"file": "rows.jsonl", "line": 2, "field": field}
    assert field in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("line", "words"),
    [("{", "not JSON"), ("[1]", "found int"), ("{}", "found none"), ('{"q": 1}', "found 'q'")],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")

    with refused(InvalidData, "rows.jsonl:1") as caught:
        read_examples(path)

    assert words in caught.value.message


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_that_is_not_utf8_is_reported_with_its_position(tmp_path: Path, mark: bytes) -> None:
    good = json.dumps({"question": "a", "answer": "b"}).encode() + b"\n"
    bad = b'{"question": "caf\xe9", "answer": "b"}\n'
    path = tmp_path / "rows.jsonl"
    path.write_bytes(mark + good + bad)

    with refused(InvalidData, "rows.jsonl:2", "UTF-8", "0xe9") as caught:
        read_examples(path)

    assert path.read_bytes()[caught.value.fields["byte_position"]] == 0xE9


def test_a_file_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with refused(InvalidData, tmp_path / "none.jsonl"):
        read_examples(tmp_path / "none.jsonl")

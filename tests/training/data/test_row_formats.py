"""Each row format: what is read from it, and that nothing is lost on the way into another."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st

from hotswap.registry.cli import cli
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.rendering import render
from hotswap.training.data.example import Example, Place
from hotswap.training.data.formats.fields import Fields
from hotswap.training.data.formats.files import iter_examples, read_examples, write_examples
from hotswap.training.data.formats.row_formats import FORMATS, detect
from hotswap.training.data.tokens import tokenize
from hotswap.training.errors import InvalidData
from tests.refusals import refused
from tests.training.conftest import WriteRows

SYSTEM = {"role": "system", "content": "s"}
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}
PLACE = Place("rows.jsonl", 1)


def chats(*, turns: int, weights: bool) -> st.SearchStrategy[Example]:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    turn = st.tuples(text, text, st.booleans() if weights else st.just(True))

    def build(system: str | None, spoken: list[tuple[str, str, bool]]) -> Example:
        messages = [] if system is None else [{"role": "system", "content": system}]
        context = set()
        for question, answer, learnt in spoken:
            messages.append({"role": "user", "content": question})
            if not learnt:
                context.add(len(messages))
            messages.append({"role": "assistant", "content": answer})
        return Example(tuple(messages), PLACE, frozenset(context))

    built = st.builds(build, st.none() | text, st.lists(turn, min_size=1, max_size=turns))
    return built.filter(lambda example: bool(example.learnt))


@pytest.mark.parametrize("name", FORMATS)
@given(example=chats(turns=3, weights=True))
def test_what_a_format_takes_it_gives_back(name: str, example: Example) -> None:
    try:
        row = FORMATS[name].write(example)
    except InvalidData:
        assert name != "messages"
        return

    parsed = Fields(PLACE, json.loads(json.dumps(row)))

    assert detect(parsed).name == name
    assert FORMATS[name].read(parsed) == example


@pytest.mark.parametrize("name", FORMATS)
@given(example=chats(turns=1, weights=False))
def test_one_turn_without_a_system_message_is_taken_by_every_format(
    name: str, example: Example
) -> None:
    turn = Example(example.messages[-2:], PLACE)

    assert FORMATS[name].read(Fields(PLACE, FORMATS[name].write(turn))) == turn


@given(rows=st.lists(chats(turns=1, weights=False), min_size=1, max_size=5))
@example(rows=[Example(({**USER, "content": "a\rb"}, {**ANSWER, "content": ""}), PLACE)])
def test_a_csv_file_gives_back_every_text(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Example]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    turns = [Example(example.messages[-2:], PLACE) for example in rows]

    write_examples(path, turns, "csv")

    assert [e.messages for e in read_examples(path)] == [e.messages for e in turns]


@pytest.mark.parametrize(
    ("row", "messages", "context"),
    [
        ({"prompt": "hi", "completion": "hello"}, [USER, ANSWER], set()),
        (
            {"prompt": [SYSTEM, USER, ANSWER, USER], "completion": [ANSWER]},
            [SYSTEM, USER, ANSWER, USER, ANSWER],
            {2},
        ),
        (
            {"messages": [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]},
            [USER, ANSWER, USER, ANSWER],
            {1},
        ),
        (
            {
                "systemInstruction": {"role": "system", "parts": [{"text": "s"}]},
                "contents": [
                    {"role": "user", "parts": [{"text": "h"}, {"text": "i"}]},
                    {"role": "model", "parts": [{"text": "hello"}]},
                ],
            },
            [SYSTEM, USER, ANSWER],
            set(),
        ),
        ({"instruction": "hi", "input": "", "output": "hello"}, [USER, ANSWER], set()),
        (
            {"instruction": "a", "input": "b", "output": "hello", "system": "s"},
            [SYSTEM, {"role": "user", "content": "a\nb"}, ANSWER],
            set(),
        ),
        (
            {
                "id": "7",
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "hi"},
                    {"from": "gpt", "value": "hello"},
                ],
            },
            [SYSTEM, USER, ANSWER],
            set(),
        ),
    ],
)
def test_a_row_is_read_in_the_format_it_shows(
    write_rows: WriteRows, row: dict[str, Any], messages: list[Any], context: set[int]
) -> None:
    (example,) = read_examples(write_rows([row]))

    assert list(example.messages) == messages
    assert example.context == context


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ({"messages": [{**USER, "weight": 1}, ANSWER]}, "messages[0].weight", "only an answer"),
        ({"messages": [USER, {**ANSWER, "weight": 2}]}, "messages[1].weight", "0 or 1"),
        ({"messages": [USER, {**ANSWER, "weight": True}]}, "messages[1].weight", "0 or 1"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "messages[1].role", "weight 0"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role", "tool calls"),
        ({"messages": [{"role": "developer", "content": ""}]}, "messages[0].role", "'system'"),
        ({"messages": [USER, ANSWER], "tools": []}, "tools", "unknown field"),
        ({"prompt": "a", "completion": 1}, "completion", "expected text"),
        ({"prompt": "a", "completion": [USER]}, "completion[0].role", "no answer"),
        ({"contents": [{"role": "model", "parts": [{"text": "a"}]}]}, "contents[0].role", "follow"),
        ({"contents": [{"role": "user", "parts": []}]}, "contents[0].parts", "not empty"),
        (
            {"contents": [{"role": "user", "parts": [{"inlineData": {}}]}]},
            "contents[0].parts[0].inlineData",
            "unknown field",
        ),
        ({"systemInstruction": "s", "contents": [1]}, "contents[0]", "expected an object"),
        ({"instruction": "a", "output": None}, "output", "expected text"),
        ({"instruction": "a", "output": "b", "history": []}, "history", "unknown field"),
        ({"conversations": [{"from": "bot", "value": ""}]}, "conversations[0].from", "'bot'"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_field(
    write_rows: WriteRows, row: dict[str, Any], field: str, words: str
) -> None:
    with refused(InvalidData, "rows.jsonl:1") as caught:
        read_examples(write_rows([row]))

    assert caught.value.fields == {"file": "rows.jsonl", "line": 1, "field": field}
    assert words in caught.value.message


def test_the_first_row_in_another_format_is_named(write_rows: WriteRows) -> None:
    rows = [{"question": "a", "answer": "b"}] * 2 + [{"prompt": "a", "completion": "b"}]

    with refused(InvalidData, "rows.jsonl:3", "prompt-completion", "line 1"):
        read_examples(write_rows(rows))


@pytest.mark.parametrize(
    ("example", "target", "words"),
    [
        (Example((USER, ANSWER, USER, ANSWER), PLACE), "question-answer", "4 messages"),
        (Example((USER, ANSWER, USER, ANSWER), PLACE), "alpaca", "4 messages"),
        (Example((SYSTEM, USER, ANSWER), PLACE), "question-answer", "a system message"),
        (Example((USER, ANSWER, USER, ANSWER), PLACE, frozenset({1})), "gemini", "not learnt"),
        (Example((USER, ANSWER, USER, ANSWER), PLACE, frozenset({1})), "sharegpt", "not learnt"),
        (
            Example((USER, ANSWER, USER, ANSWER), PLACE, frozenset({3})),
            "prompt-completion",
            "not learnt",
        ),
    ],
)
def test_what_a_format_cannot_say_is_an_error(example: Example, target: str, words: str) -> None:
    with refused(InvalidData, "rows.jsonl:1", target):
        FORMATS[target].write(example)


def test_an_answer_of_weight_0_is_in_the_prompt_and_not_supervised(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    chat = (
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
        {"role": "user", "content": "five"},
        {"role": "assistant", "content": "six"},
    )

    row = tokenize(Example(chat, PLACE, frozenset({1, 5})), prompt, base.tokenizer)

    def ids_of(text: str) -> list[int]:
        return list(base.tokenizer.encode(text, add_special_tokens=False).ids)

    end = base.tokenizer.token_to_id("<|im_end|>")
    assert list(row.ids) == [*ids_of(render(prompt, chat[:3])), *ids_of("four"), end]
    learnt = [i for i, supervised in zip(row.ids, row.supervised, strict=True) if supervised]
    assert learnt == [*ids_of("four"), end]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_gives_the_rows_of_lines_with_the_lines_they_begin_on(
    tmp_path: Path, indent: int | None
) -> None:
    rows = [{"instruction": f'{i} "{{[\\ é😀', "input": "", "output": "x" * i} for i in range(3000)]
    path = tmp_path / "rows.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=False)
    path.write_text(" \n" + text, encoding="utf-8")

    examples = read_examples(path)

    assert len(text) > 1 << 21  # so that many rows lie across a cut between two pieces
    assert [e.answers[0] for e in examples] == [row["output"] for row in rows]
    assert [e.messages[0]["content"] for e in examples] == [row["instruction"] for row in rows]
    lines = [2 + (1 + 5 * i if indent else 0) for i in range(3000)]
    assert [e.place.line for e in examples] == lines
    assert len({e.place for e in examples}) == 3000


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[\n{"question": "a", "answer": "b"}\n{', 3, "expected ']', found '{'"),
        ('[\n{"question": "a",\n "answer" "b"}]', 3, "not JSON: Expecting ':'"),
        ('[{"question": "a", "answer": "b"}', 1, "the array ends"),
        ('[{"question": "a", "answer": "b', 1, "Unterminated string"),
        ('[{"question": "a", "answer": "b"},\n]', 2, "Expecting value"),
        ('[{"question": "a", "answer": "b"}]\n{}', 2, "more text behind the array"),
        ('[{"question": "a", "answer": "b"}, 3]', 1, "expected a JSON object, found int"),
    ],
)
def test_a_fault_in_an_array_is_named_by_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)

    with pytest.raises(InvalidData) as caught:
        read_examples(path)

    assert caught.value.message.startswith(f"rows.json:{line}")
    assert words in caught.value.message


@pytest.mark.parametrize("filling", [0, (1 << 16) - 20])
def test_a_byte_in_an_array_that_is_not_utf8_is_reported_with_its_position(
    tmp_path: Path, filling: int
) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"[\n" + b" " * filling + b'{"question": "caf\xe9", "answer": "b"}]')

    with refused(InvalidData, "rows.json:2", "UTF-8", "0xe9") as caught:
        read_examples(path)

    assert path.read_bytes()[caught.value.fields["byte_position"]] == 0xE9


def test_csv_cells_may_hold_quotes_commas_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'\xef\xbb\xbfquestion,answer\n"a, ""b""\nc",d\r\n\ne,f\n')

    examples = read_examples(path)

    assert [e.messages[0]["content"] for e in examples] == ['a, "b"\nc', "e"]
    assert [e.answers[0] for e in examples] == ["d", "f"]
    assert [e.place.line for e in examples] == [2, 5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question,answer\na,b,c\n", "rows.csv:2: 3 cells, but the header names 2"),
        ("question,question\na,b\n", "rows.csv:1: the header has two columns 'question'"),
        ('question,answer\n"a,b\n', "rows.csv:2: not CSV"),
        ("text,label\na,b\n", "--columns question=text,answer=category"),
    ],
)
def test_a_fault_in_a_csv_file_is_named_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)

    with pytest.raises(InvalidData) as caught:
        read_examples(path)

    assert words in caught.value.message


def test_a_file_of_tens_of_megabytes_is_converted_in_one(tmp_path: Path) -> None:
    row = {"instruction": "a" * 2000, "input": "b" * 2000, "output": "c" * 4000}
    path = tmp_path / "rows.json"
    path.write_text("[" + ", ".join([json.dumps(row)] * 4000) + "]")
    size_bytes = path.stat().st_size
    tracemalloc.start()
    try:
        num_rows = write_examples(tmp_path / "rows.jsonl", iter_examples(path), "gemini")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (num_rows, size_bytes > 30_000_000) == (4000, True)
    assert peak_bytes < 1_000_000


def convert(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["data", "convert", *map(str, arguments)])


@pytest.mark.usefixtures("names_are_synced")
def test_convert_reads_chosen_columns_and_writes_another_format(tmp_path: Path) -> None:
    source, target = tmp_path / "rows.csv", tmp_path / "rows.jsonl"
    source.write_text("id,text,category\n1,where?,place\n")

    result = convert(source, target, "--to", "gemini", "--columns", "question=text,answer=category")

    assert result.exit_code == 0, result.output
    assert [json.loads(line) for line in target.read_text().splitlines()] == [
        {
            "contents": [
                {"role": "user", "parts": [{"text": "where?"}]},
                {"role": "model", "parts": [{"text": "place"}]},
            ]
        }
    ]


def test_convert_leaves_nothing_behind_when_a_row_cannot_be_said(
    tmp_path: Path, write_rows: WriteRows
) -> None:
    good = {"messages": [USER, ANSWER]}
    source = write_rows([good, {"messages": [USER, ANSWER, USER, ANSWER]}])

    result = convert(source, tmp_path / "out.csv", "--to", "csv")

    assert isinstance(result.exception, InvalidData)
    assert "rows.jsonl:2: " in result.exception.message
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_convert_overwrites_nothing(tmp_path: Path, write_rows: WriteRows) -> None:
    source = write_rows([{"messages": [USER, ANSWER]}])
    before = source.read_bytes()

    result = convert(source, source)

    assert isinstance(result.exception, InvalidRequest)
    assert source.read_bytes() == before


def test_real_rows_come_back_through_every_format(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "banking77" / "test.csv"
    with source.open(encoding="utf-8", newline="") as file:
        wanted = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    columns = {"question": "text", "answer": "category"}
    examples = read_examples(source, columns=columns)
    for number, name in enumerate([*FORMATS, "csv"]):
        path = tmp_path / f"{number}"
        write_examples(path, examples, name)
        examples = read_examples(path)

    assert [(e.messages[0]["content"], e.answers[0]) for e in examples] == wanted


def test_the_real_file_that_is_not_utf8_is_not_guessed(real_data: Path, tmp_path: Path) -> None:
    known = json.loads((real_data / "snips" / "train_PlayMusic_full.json").read_text("latin-1"))
    questions = ["".join(part["text"] for part in row["data"]) for row in known["PlayMusic"]]
    path = tmp_path / "music.jsonl"
    with path.open("w", encoding="latin-1") as file:
        for question in questions:
            row = {"question": question, "answer": "PlayMusic"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    with refused(InvalidData, "UTF-8") as caught:
        read_examples(path)

    raw = [question.encode("latin-1") for question in questions]  # most of it is UTF-8 after all
    is_utf8 = [line == line.decode("utf-8", "ignore").encode() for line in raw]
    assert caught.value.fields["line"] == is_utf8.index(False) + 1

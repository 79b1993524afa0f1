from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hotswap.registry.cli import cli
from hotswap.training.data.checks.examples import check_examples
from hotswap.training.data.checks.findings import refuse
from hotswap.training.data.formats.files import read_examples
from hotswap.training.data.traffic import (
    Answers,
    Choice,
    LeftOut,
    collect,
    iter_served,
    requests_in,
)
from hotswap.training.errors import InvalidData
from tests.refusals import refused


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def served(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A row as the server writes it."""
    return {
        "time": "2026-11-28T10:00:00.000+00:00",
        "request_id": "r",
        "adapter": "team/a",
        "version": "team/a:1",
        "digest": "sha256:00",
        "messages": list(messages),
        "answer": "yes",
        "choice": 0,
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "completion_tokens": 1,
        **fields,
    }


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chosen(path: Path, **options: Any) -> dict[str, list[str]]:
    """Of each question that is taken the answers."""
    found = collect(iter_served(path), Choice(**options))
    taken: dict[str, list[str]] = {}
    for example in found.examples:
        taken.setdefault(example.messages[-2]["content"], []).append(example.answers[-1])
    return taken


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(
        tmp_path / "log.jsonl",
        served(user("one"), answer="a"),
        served(user("One "), answer="A"),
        served(user("one"), answer="b"),
        served(user("two"), answer="cut o", finish_reason="length"),
        served(user("three"), adapter="team/b", time="2026-11-20T10:00:00+01:00"),
        served(user("four"), answer=" "),
    )


def test_by_default_answers_are_yet_to_be_written_and_questions_stand_once(log: Path) -> None:
    assert chosen(log) == {"one": [""], "two": [""], "three": [""], "four": [""]}
    found = collect(iter_served(log), Choice())
    assert found.num_read == 6
    assert +found.left_out == {LeftOut.DUPLICATE: 2}


def test_rows_without_answers_are_refused_by_training_until_they_are_written(log: Path) -> None:
    with refused(InvalidData, codes=["empty_answer"]):
        refuse(check_examples(collect(iter_served(log), Choice()).examples))


def test_served_answers_are_taken_when_that_is_said(log: Path) -> None:
    assert chosen(log, answers=Answers.SERVED) == {"one": ["a", "b"], "three": ["yes"]}
    found = collect(iter_served(log), Choice(answers=Answers.SERVED))
    assert +found.left_out == {
        LeftOut.DUPLICATE: 1,
        LeftOut.TRUNCATED: 1,
        LeftOut.EMPTY: 1,
    }


def test_answers_that_were_cut_off_can_be_kept(log: Path) -> None:
    assert chosen(log, answers=Answers.SERVED, keep_truncated=True)["two"] == ["cut o"]


def test_rows_are_chosen_by_adapter_and_time(log: Path) -> None:
    assert list(chosen(log, adapters=("team/b", "x/*"))) == ["three"]
    assert list(chosen(log, adapters=("team/*",))) == ["one", "two", "three", "four"]
    at = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)  # three's time, in another zone
    assert "three" in chosen(log, since=at)
    assert "three" not in chosen(log, since=at.replace(minute=1))


def test_earlier_answers_of_a_conversation_are_context_and_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "And "}, {"type": "text", "text": "you?"}]
    row = served(
        {"role": "developer", "content": "Be kind."},
        user("How are you?"),
        assistant("Well."),
        {"role": "user", "name": "ann", "content": parts},
    )
    (example,) = collect(iter_served(write(tmp_path / "log.jsonl", row)), Choice()).examples
    assert [m["role"] for m in example.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert example.messages[3]["content"] == "And you?"
    assert example.learnt == (4,)


def test_what_cannot_be_a_row_is_left_out_and_counted(tmp_path: Path) -> None:
    def completion(prompt: str) -> dict[str, Any]:
        row = served(prompt=prompt)
        del row["messages"]
        return row

    path = write(
        tmp_path / "log.jsonl",
        served(user("a"), assistant("begun")),
        served(user("b"), {"role": "system", "content": "late"}, user("c")),
        completion("<|im_start|>user\nd<|im_end|>\n<|im_start|>assistant\n"),
        completion("e"),
    )
    found = collect(iter_served(path), Choice())
    assert [e.messages[0]["content"] for e in found.examples] == ["e"]
    assert +found.left_out == {LeftOut.UNUSABLE: 2, LeftOut.TEMPLATED: 1}


def test_personal_data_is_counted_and_redacted_when_asked_for(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl",
        served(user("I am ann@example.org, card 4111 1111 1111 1111")),
        served(user("I am bob@example.org, card 5500 0055 5555 5559")),
        served(user("call +49 30 901820 or +1 650-253-0000")),
    )
    kept = collect(iter_served(path), Choice())
    assert kept.personal == {"e-mail": 2, "card": 2, "phone": 1}
    assert "ann@example.org" in kept.examples[0].messages[0]["content"]
    found = collect(iter_served(path), Choice(redact=True))
    assert found.personal == kept.personal
    assert [e.messages[0]["content"] for e in found.examples] == [
        "I am [e-mail], card [card]",
        "call [phone] or [phone]",
    ]
    assert found.left_out[LeftOut.DUPLICATE] == 1


def test_a_directory_is_read_oldest_first(tmp_path: Path) -> None:
    for name, text in (("current", "new"), ("previous", "old")):
        write(tmp_path / f"requests/team+a/{name}.jsonl", served(user(text)))
    write(tmp_path / "requests/team+b/current.jsonl", served(user("other"), adapter="team/b"))
    (tmp_path / "requests/lock").touch()
    read = [row.asked[0]["content"] for row in iter_served(tmp_path / "requests")]
    assert read == ["old", "new", "other"]
    assert len(requests_in(tmp_path / "requests")) == 3


def test_drift_reads_rows_of_a_log_and_of_any_format(log: Path, tmp_path: Path) -> None:
    assert [e.messages[0]["content"] for e in requests_in(log)][3] == "two"
    rows = write(tmp_path / "rows.jsonl", {"question": "q", "answer": "a"})
    assert requests_in(rows) == read_examples(rows)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"question": "q", "answer": "a"}, ("log.jsonl:1",)),
        (served(user("a"), time="today"), ("time", "'today'")),
        (served(user("a"), time="2026-11-28T10:00:00"), ("time", "2026-11-28T10:00:00")),
        (served({"role": "tool", "content": "a"}), ("messages[0].role", "'tool'")),
        (served(user("a"), answer=None), ("answer", "NoneType")),
    ],
)
def test_a_row_that_is_none_is_named(
    tmp_path: Path, row: dict[str, Any], named: tuple[str, ...]
) -> None:
    with refused(InvalidData, *named):
        list(iter_served(write(tmp_path / "log.jsonl", row)))


def test_an_empty_directory_is_named(tmp_path: Path) -> None:
    with refused(InvalidData, "*.jsonl"):
        list(iter_served(tmp_path))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["data", "from-traffic", *map(str, arguments)])


def test_the_command_writes_rows_for_their_owner_and_tells_what_it_left_out(
    log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    done = run(log, "--out", out, "--adapter", "team/a", "--since", "2026-11-28")
    assert done.exit_code == 0, done.output
    assert "left out: 1 of another adapter" in done.output
    assert "left out: 2 that are an earlier row" in done.output
    assert "3 of 6 rows written" in done.output
    assert "the model's own" not in done.output
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"messages": [user("one"), assistant("")]},
        {"messages": [user("two"), assistant("")]},
        {"messages": [user("four"), assistant("")]},
    ]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_the_command_warns_of_served_answers_and_of_personal_data(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", served(user("ann@example.org?")))
    out = tmp_path / "rows.csv"
    done = run(log, "--out", out, "--answers", "served", "--to", "csv", "--redact")
    assert "warning: 1 rows have what looks like personal data: e-mail (redacted)" in done.stderr
    assert "warning: the answers are the model's own" in done.stderr
    assert out.read_text() == '"question","answer"\n"[e-mail]?","yes"\n'


def test_a_log_of_which_nothing_is_left_is_an_error(log: Path, tmp_path: Path) -> None:
    done = run(log, "--out", tmp_path / "rows.jsonl", "--adapter", "nobody")
    assert isinstance(done.exception, InvalidData)
    assert "none of the 6 rows" in str(done.exception)
    assert not (tmp_path / "rows.jsonl").exists()

"""Fixes and splits: which rows change, which stay, and that the server is told."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hotswap.registry.cli import cli
from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.domain.prompts import Normaliser
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.requests.resolver import Target
from hotswap.serving.requests.schemas import ChatRequest
from hotswap.serving.settings import ServingSettings
from hotswap.training.data.classes import are_classes, balance
from hotswap.training.data.duplicates import alike
from hotswap.training.data.example import Example, Place
from hotswap.training.data.fixes import Fixes, clean
from hotswap.training.data.formats.files import read_examples
from hotswap.training.data.splitting import split
from hotswap.training.data.texts import normalised, structure_of
from hotswap.training.errors import InvalidData
from hotswap.training.evaluation.engine import FreshEngine, fresh_engine
from hotswap.training.loop.finetune import finetune
from hotswap.training.loop.progress import Silence
from hotswap.training.prepare import prepare
from hotswap.training.runs.publish import publish
from hotswap.training.spec import TrainingSpec
from tests.refusals import refused
from tests.training.conftest import WriteRows
from tests.training.rows import examples_of

LONG = "the quick brown fox jumps over the lazy dog near the river bank today"


def pairs(*rows: tuple[str, str]) -> list[Example]:
    return examples_of([{"question": question, "answer": answer} for question, answer in rows])


def lines(examples: Sequence[Example]) -> list[int]:
    return [example.place.line for example in examples]


def of_classes(**sizes: int) -> list[Example]:
    """Rows of classes with these sizes, in an order of chance; no two questions are alike."""
    labels = [label for label, size in sizes.items() for _ in range(size)]
    chance = random.Random(1)
    chance.shuffle(labels)
    return pairs(*((f"{chance.getrandbits(200):x}", label) for label in labels))


def test_dedup_keeps_the_first_of_rows_that_differ_in_form_only() -> None:
    rows = pairs(("Where is it?", "Yes"), (" where  IS it?", "yes"), ("ﬁne", "a"), ("fine", "a"))

    kept, applied = clean(rows, Fixes(dedup="exact"))

    assert lines(kept) == [1, 3]
    assert applied == [{"fix": "dedup", "how": "exact", "num_rows": 2}]


@pytest.mark.parametrize("how", ["exact", "near"])
def test_dedup_keeps_another_answer_to_the_same_question(how: str) -> None:
    rows = pairs((LONG, "a"), (LONG, "b"), (LONG, "a"))

    kept, _ = clean(rows, Fixes.parse({"dedup": how}))

    assert lines(kept) == [1, 2]


def test_near_duplicates_are_left_out_only_on_request() -> None:
    rows = pairs((LONG, "a"), (LONG + "!", "a"), ("something else entirely", "a"))

    assert lines(clean(rows, Fixes(dedup="exact"))[0]) == [1, 2, 3]
    assert lines(clean(rows, Fixes(dedup="near"))[0]) == [1, 3]


def test_rows_that_differ_in_what_is_learnt_are_no_duplicates() -> None:
    chat = tuple(
        {"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")
    )
    rows = [Example(chat, Place("a", 1)), Example(chat, Place("a", 2), frozenset({1}))]

    assert clean(rows, Fixes(dedup="exact"))[0] == rows


def test_rows_of_other_system_messages_are_no_duplicates() -> None:
    turn = ({"role": "user", "content": LONG}, {"role": "assistant", "content": "a"})
    rows = [
        Example(({"role": "system", "content": system}, *turn), Place("a", line))
        for line, system in enumerate(("be brief", "be kind", "Be  kind"), start=1)
    ]

    assert lines(clean(rows, Fixes(dedup="near"))[0]) == [1, 2]


def test_trim_leaves_what_is_inside_of_json_and_code() -> None:
    code = "def f(x):\n    return x"
    rows = pairs(("  a\n b ", " c  d\n"), ("a", f"\n{code} "), ("a", ' {"k":  1} '), ("a", "b"))

    trimmed, applied = clean(rows, Fixes(trim=True))

    assert [e.messages[0]["content"] for e in trimmed] == ["a b", "a", "a", "a"]
    assert [e.answers[0] for e in trimmed] == ["c d", code, '{"k":  1}', "b"]
    assert applied == [{"fix": "trim", "num_rows": 3}]


def test_lower_changes_the_column_that_is_named() -> None:
    lowered, applied = clean(pairs(("Ä B", "C"), ("a", "D")), Fixes(lower=("question",)))

    assert [e.messages[0]["content"] for e in lowered] == ["ä b", "a"]
    assert [e.answers[0] for e in lowered] == ["C", "D"]
    assert applied == [{"fix": "lower", "column": "question", "num_rows": 1}]


@pytest.mark.parametrize(
    ("text", "structure"),
    [
        ('{"Intent": "X", "slots": []}', "JSON"),
        ("SELECT Name FROM users", "SQL"),
        ("select name from users where id = 3", "SQL"),
        ("```\nX\n```", "code"),
        ("def F(x):\n    return x", "code"),
        ("for (int i = 0; i < n; i++) {\n  X();\n}", "code"),
        ("Select a card from the list", None),
        ("Update my address and set a reminder", None),
        ("{name}, welcome", None),
        ("How do I (safely) return an item; is it free?", None),
        ("Import my contacts", None),
    ],
)
def test_json_sql_and_code_are_told_from_text(text: str, structure: str | None) -> None:
    assert structure_of(text) == structure


def test_small_letters_are_refused_where_case_has_a_meaning() -> None:
    rows = pairs(("a", "b"), ("a", '{"Key": "B"}'))

    with refused(InvalidData, "rows.jsonl:2", "JSON", "1 of 2 rows"):
        clean(rows, Fixes(lower=("answer",)))

    assert clean(rows, Fixes(lower=("question",)))[1][0]["num_rows"] == 0


def test_larger_classes_lose_rows_and_smaller_ones_keep_theirs() -> None:
    rows = of_classes(a=40, b=10, c=4)

    kept = [rows[i] for i in balance(rows, 1.5, "down", seed=1)]

    assert Counter(e.answers[0] for e in kept) == {"a": 15, "b": 10, "c": 4}
    assert lines(kept) == sorted(set(lines(kept)))
    one, again, other = (balance(rows, 1.5, "down", seed=seed) for seed in (1, 1, 2))
    assert one == again != other


def test_smaller_classes_are_repeated_evenly() -> None:
    rows = of_classes(a=40, b=10, c=4)

    kept = [rows[i] for i in balance(rows, 1, "over", seed=1)]

    assert Counter(e.answers[0] for e in kept) == {"a": 40, "b": 10, "c": 10}
    repeats = Counter(e.place.line for e in kept if e.answers[0] == "c")
    assert sorted(repeats.values()) == [2, 2, 3, 3]


def test_answers_that_are_no_classes_are_not_balanced() -> None:
    with refused(InvalidData, "4 rows", "4 answers"):
        balance(of_classes(a=1, b=1, c=1, d=1), 1, "down", seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_every_class_has_its_share_in_every_part(seed: int) -> None:
    rows = of_classes(a=200, b=100, c=40)

    parts = split(rows, (0.2, 0.1), seed)

    assert sorted(line for part in parts for line in lines(part)) == lines(rows)
    for share, part in zip((0.7, 0.2, 0.1), parts, strict=True):
        counts = Counter(e.answers[0] for e in part)
        for label, size in {"a": 200, "b": 100, "c": 40}.items():
            assert abs(counts[label] - share * size) <= 2
    assert parts == split(rows, (0.2, 0.1), seed)
    assert parts != split(rows, (0.2, 0.1), seed + 1)


def test_rows_that_are_alike_never_straddle_a_split() -> None:
    chance = random.Random(5)
    texts = [f"{chance.getrandbits(300):x}" for _ in range(40)]
    rows = pairs(
        *((text, "a") for text in texts),
        *((text.upper() + " ", "b") for text in texts),
        *((text + "!", "c") for text in texts),
    )

    for seed in range(4):
        parts = split(rows, (0.3, 0.2), seed)
        part_of = {line: number for number, part in enumerate(parts) for line in lines(part)}
        assert all(part_of[i] == part_of[i + 40] == part_of[i + 80] for i in range(1, 41))
        assert all(abs(len(p) - s * 120) <= 6 for p, s in zip(parts, (0.5, 0.3, 0.2), strict=True))
    assert sorted(map(len, alike(rows))) == [3] * 40


@pytest.mark.parametrize(
    ("count", "fraction", "held"), [(10, 0.0, 0), (10, 0.2, 2), (3, 0.01, 1), (1, 0.5, 0)]
)
def test_the_split_holds_back_the_share_and_keeps_the_rest(
    count: int, fraction: float, held: int
) -> None:
    examples = of_classes(a=count)

    train, validation = split(examples, (fraction,), seed=3)

    assert len(validation) == held
    assert sorted(lines(train + validation)) == list(range(1, count + 1))


ALL_BUT_NONE = [normaliser for normaliser in Normaliser if normaliser is not Normaliser.NONE]


@pytest.mark.parametrize("normaliser", ALL_BUT_NONE)
@given(text=st.text(max_size=30))
def test_normalised_text_stays_as_it_is(normaliser: Normaliser, text: str) -> None:
    once = normaliser.apply(text)

    assert normaliser.apply(once) == once


def test_two_normalisers_together_do_what_both_do() -> None:
    assert Normaliser.NONE | Normaliser.LOWERCASE is Normaliser.LOWERCASE
    assert Normaliser.WHITESPACE | Normaliser.NONE is Normaliser.WHITESPACE
    both = Normaliser.WHITESPACE | Normaliser.LOWERCASE
    assert both.apply(" A\n B ") == "a b"
    assert both | Normaliser.WHITESPACE is both


async def prompt_ids_of(engine: FreshEngine, target: Target, request: ChatRequest) -> list[int]:
    inference = engine.serving.inference
    (generation,) = inference.start(target, request, inference.chat_ids(target, request))
    generation.close()
    return generation.prompt_ids


def test_the_server_sees_the_ids_that_training_saw_after_its_fixes(
    base: BaseDirectory, write_rows: WriteRows, tmp_path: Path
) -> None:
    rows = [{"question": f"  One\t{i} ", "answer": f"Fox  {i % 2} "} for i in range(20)]
    given = {"data": write_rows(rows), "trim": True, "lower": "question", "num_epochs": 0}
    spec = TrainingSpec.parse({**given, "validation_fraction": 0, "r": 2})

    prepared = prepare(spec, base)

    assert prepared.prompt.normaliser is Normaliser.WHITESPACE_LOWERCASE
    outcome = finetune(spec, base, prepared.train, (), Silence(), prepared.probes)
    bundle = publish(tmp_path / "adapter", outcome, spec, base, prepared)
    settings = ServingSettings.model_validate({"quantization": "none", "kernels": "torch"})
    with fresh_engine(base, settings) as engine:
        target = engine.load(bundle.directory)
        request = ChatRequest.model_validate(
            {"model": "x", "messages": [{"role": "user", "content": rows[3]["question"]}]}
        )
        served_ids = asyncio.run(prompt_ids_of(engine, target, request))
    assert list(prepared.train[3].ids[: len(served_ids)]) == served_ids
    assert not prepared.train[3].supervised[len(served_ids) - 1]
    assert prepared.train[3].supervised[len(served_ids)]
    assert bundle.metadata.provenance["fixes"] == [
        {"fix": "trim", "num_rows": 20},
        {"fix": "lower", "column": "question", "num_rows": 20},
    ]


@pytest.mark.parametrize("differ", [False, True])
def test_a_share_that_like_rows_cannot_give_is_a_warning(
    base: BaseDirectory, write_rows: WriteRows, differ: bool
) -> None:
    chance = random.Random(3)
    rows = [
        {"question": f"{LONG} {i}" if not differ else f"{chance.getrandbits(99):x}", "answer": "a"}
        for i in range(60)
    ]

    spec = TrainingSpec.parse({"data": write_rows(rows), "max_length": 10**6})
    prepared = prepare(spec, base)

    found = [f for f in prepared.findings if f.code == "few_held_back"]
    assert len(prepared.validation) == (6 if differ else 0)
    assert [f.text.partition(",")[0] for f in found] == (
        [] if differ else ["0 rows are held back of 6 that were asked for"]
    )


def test_only_rows_to_train_on_are_balanced(base: BaseDirectory, write_rows: WriteRows) -> None:
    chance = random.Random(2)
    rows = [
        {"question": f"{chance.getrandbits(200):x}", "answer": "one" if i % 10 else "two"}
        for i in range(100)
    ]
    given = {"data": write_rows(rows), "balance": 1, "balance_by": "over"}
    spec = TrainingSpec.parse({**given, "validation_fraction": 0.2, "max_length": 10**6})

    prepared = prepare(spec, base)

    assert len(prepared.validation) == 20
    assert len({row.place for row in prepared.validation}) == 20
    assert not {row.place for row in prepared.validation} & {row.place for row in prepared.train}
    (applied,) = prepared.fixes
    assert len(prepared.train) == 80 + applied["num_rows"] > 80


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSWAP_HOME", str(tmp_path / "home"))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["data", *(str(argument) for argument in arguments)])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def test_fix_writes_the_rows_in_their_format_and_says_what_it_did(
    tmp_path: Path, write_rows: WriteRows
) -> None:
    source = write_rows([{"prompt": " a ", "completion": "b"}] * 3)

    said = run("fix", source, tmp_path / "out.jsonl", "--trim", "--dedup", "exact")

    assert (tmp_path / "out.jsonl").read_text() == '{"prompt": "a", "completion": "b"}\n'
    assert "trim: 3 rows\ndedup, exact: 2 rows\n1 of 3 rows" in said


def test_split_writes_a_file_for_every_part(tmp_path: Path, write_rows: WriteRows) -> None:
    rows = [{"question": e.messages[0]["content"], "answer": "a"} for e in of_classes(a=20)]

    run("split", write_rows(rows), tmp_path / "parts", "--validation", 0.2, "--test", 0.1)

    read = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "parts").iterdir()
    }
    assert {name: len(part) for name, part in read.items()} == {
        "train": 14,
        "validation": 4,
        "test": 2,
    }
    assert all(row in rows for part in read.values() for row in part)


def test_the_real_set_has_four_duplicate_texts(real_data: Path) -> None:
    source = real_data / "banking77" / "train.csv"
    rows = read_examples(source, columns={"question": "text", "answer": "category"})

    assert are_classes(rows)
    assert len(rows) - len({normalised(e.messages[0]["content"]) for e in rows}) == 4


def test_an_option_that_does_not_fit_is_named() -> None:
    with refused(InvalidSettings, "fixes"):
        Fixes.parse({"lower": "question,both"})

"""`hotswap ladder` on the tiny base: every rung, what is refused, and what a version states."""

from __future__ import annotations

import json
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.commands.push import push as push_command
from hotswap.registry.connect import open_registry
from hotswap.registry.domain.digests import hash_file
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.settings import RegistrySettings
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.commands.ladder import ladder
from hotswap.training.commands.train import train
from hotswap.training.errors import InvalidData
from hotswap.training.runs.run import Run
from hotswap.training.settings import TrainingHome
from tests.training.help import help_without_torch
from tests.training.rows import WORDS

# PEFT reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

RUNGS = ["zero_shot", "system_prompt", "few_shot", "retrieved", "adapter"]
TEXTS = ("lost my card", "top up fails", "what is the fee", "change the pin", "where is the cash")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingHome:
    found = TrainingHome(tmp_path / "home")
    for module in ("train", "evaluate", "ladder"):
        monkeypatch.setattr(f"hotswap.training.commands.{module}.read_home", lambda _: found)
    return found


def questions(start: int, stop: int) -> list[dict[str, str]]:
    """Rows of five classes, none of which is nearly another."""
    return [
        {
            "question": f"{TEXTS[i % 5]} {sha256(bytes([i])).hexdigest()[:12]}",
            "answer": WORDS[i % 5],
        }
        for i in range(start, stop)
    ]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Rows to train on and rows to ask."""
    return (
        write(tmp_path / "train.jsonl", questions(0, 25)),
        write(tmp_path / "test.jsonl", questions(25, 35)),
    )


def climb(base: BaseDirectory, data: Path, *arguments: object) -> Result:
    known = (data, "--base", base.path, "--max-tokens", 3, *arguments)
    return CliRunner().invoke(ladder, [str(argument) for argument in known])


def report_of(base: BaseDirectory, data: Path, *arguments: object) -> dict[str, Any]:
    path = data.parent / "ladder-report.json"
    result = climb(base, data, *arguments, "--report", path)
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(path.read_text())
    found["printed"] = result.stdout
    found["said"] = result.stderr
    return found


def test_every_rung_is_asked_the_same_rows(
    base: BaseDirectory, adapter: Path, files: tuple[Path, Path]
) -> None:
    found = report_of(
        base, files[1], "--train", files[0], "--adapter", adapter,
        "--system-prompt", "Say one word.", "--k", 3,
    )  # fmt: skip

    rungs = {rung["name"]: rung for rung in found["rungs"]}
    assert list(rungs) == RUNGS
    assert found["num_rows"] == found["data"]["num_rows"] == 10
    assert found["metric"] == "em_normalised"
    assert found["concurrency"] == 1
    assert found["quantization"] == "int8"
    assert found["weights"] == str(hash_file(adapter / "adapter_model.safetensors").digest)
    assert found["adapter"] == adapter.name
    tokens = {name: rung["prompt_tokens"] for name, rung in rungs.items()}
    assert tokens["adapter"] == tokens["zero_shot"] < tokens["system_prompt"] < tokens["few_shot"]
    losses = {rung["metrics"]["loss"]["value"] for rung in found["rungs"]}
    assert len(losses) == 5
    for rung in found["rungs"]:
        assert 0 < rung["answer_tokens"] <= 3
        assert 0 < rung["median_latency_s"] <= rung["p95_latency_s"]
        assert (rung["difference"] is None) == (rung["name"] == "adapter")
        score = rung["metrics"]["em_normalised"]
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
    extra = round(tokens["few_shot"] - tokens["adapter"])
    assert (
        f"3 examples, system prompt: {extra} prompt tokens a request more than the adapter"
        in found["printed"]
    )
    assert "one request at a time" in found["printed"]
    assert f"verdict: {found['verdict']['text']}" in found["printed"]
    assert found["verdict"]["outcome"] == "undecided"  # ten rows prove nothing


def test_the_prompts_of_the_rungs_are_those_that_were_asked_for(
    base: BaseDirectory, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hotswap.training.evaluation.engine import FreshEngine

    asked: list[list[Any]] = []
    answers = FreshEngine.answers

    def heard(self: FreshEngine, conversations: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(list(conversations))
        return answers(self, conversations, *arguments, **options)

    monkeypatch.setattr(FreshEngine, "answers", heard)
    report_of(base, files[1], "--train", files[0], "--system-prompt", "Say one word.", "--k", 5)

    test, training = questions(25, 35), questions(0, 25)
    known = {row["question"]: row["answer"] for row in training}
    zero, system, few, retrieved = asked
    assert zero == [({"role": "user", "content": row["question"]},) for row in test]
    assert all(
        conversation == ({"role": "system", "content": "Say one word."}, *plain)
        for conversation, plain in zip(system, zero, strict=True)
    )
    for row, shown in zip(test * 2, [*few, *retrieved], strict=True):
        contents = [message["content"] for message in shown]
        assert contents[0] == "Say one word."
        assert contents[-1] == row["question"]
        pairs = list(zip(contents[1:-1:2], contents[2:-1:2], strict=True))
        assert len(pairs) == 5
        assert all(known[question] == answer for question, answer in pairs)
    assert {c["content"] for c in few[0][2:-1:2]} == set(WORDS)  # one of each class
    assert len({shown[:-1] for shown in map(tuple_of, few)}) == 1
    for row, shown in zip(test, retrieved, strict=True):
        assert shown[-3]["content"].startswith(row["question"][:9])  # the nearest by the question


def tuple_of(conversation: Any) -> tuple[str, ...]:
    return tuple(message["content"] for message in conversation)


def test_rows_that_are_training_rows_are_neither_asked_nor_shown(
    base: BaseDirectory, adapter: Path, files: tuple[Path, Path]
) -> None:
    leaked = [{**row, "question": row["question"].upper()} for row in questions(0, 4)]
    both = write(files[1], [*leaked, *questions(25, 35)])

    found = report_of(base, both, "--train", files[0], "--adapter", adapter, "--k", 1)
    only = climb(base, write(files[1], leaked), "--train", files[0])

    assert (found["num_left_out"], found["num_rows"]) == (4, 10)
    assert "4 rows of test.jsonl are left out" in found["said"]
    assert isinstance(only.exception, InvalidData)
    assert "each of the 4 rows is a duplicate" in only.exception.message


def test_a_file_alone_is_split_into_rows_that_are_asked_and_rows_that_are_shown(
    base: BaseDirectory, tmp_path: Path
) -> None:
    data = write(tmp_path / "rows.jsonl", questions(0, 20))

    few = report_of(base, data, "--max-rows", 5, "--k", 2)
    half = report_of(base, data, "--k", 2)

    assert (few["num_rows"], few["num_train_rows"]) == (5, 15)
    assert (half["num_rows"], half["num_train_rows"]) == (10, 10)
    assert [rung["name"] for rung in few["rungs"]] == ["zero_shot", "few_shot", "retrieved"]
    assert few["verdict"]["outcome"] == "prompts_only"
    assert few["weights"] is None


def test_a_prompt_that_is_too_long_shows_fewer_examples_and_says_so(
    base: BaseDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "rows.jsonl", questions(0, 20))
    monkeypatch.setenv("HOTSWAP_SERVING_KV_CACHE_TOKENS", "192")

    found = report_of(base, data, "--max-rows", 4, "--k", 12)
    monkeypatch.setenv("HOTSWAP_SERVING_KV_CACHE_TOKENS", "80")
    none = report_of(base, data, "--max-rows", 4, "--k", 12)

    few = found["rungs"][1]
    assert few["num_trimmed"] == 4
    assert 0 < few["min_examples"] < 12
    assert few["prompt_tokens"] <= 192 - 3
    assert "4 prompts were too long for the context and show fewer of the 12" in found["printed"]
    assert [rung["name"] for rung in none["rungs"]] == ["zero_shot"]
    assert "12 examples: left out, the context of 80 tokens holds none" in none["said"]


def test_a_goal_judges_prompts_before_there_is_an_adapter(
    base: BaseDirectory, tmp_path: Path
) -> None:
    data = write(tmp_path / "rows.jsonl", questions(0, 20))

    found = report_of(base, data, "--k", 1, "--goal", 0.9)

    assert all(r["metrics"]["em_normalised"]["value"] == 0 for r in found["rungs"])
    assert found["verdict"]["outcome"] == "train"
    assert "0.9 is the goal" in found["printed"]


def test_what_contradicts_itself_is_refused_before_any_asking(
    base: BaseDirectory, adapter: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    training, test = files
    trained = ("--train", training, "--adapter", adapter)
    prompt = tmp_path / "system.txt"
    prompt.write_bytes(b"\xff\xfe")
    for arguments, problem in (
        (("--adapter", adapter), "--train FILE, the rows it was trained on"),
        ((*trained, "--goal", 0.5), "--margin says"),
        ((*trained, "--run", "x"), "leave out --adapter"),
        (("--system-prompt", "x", "--system-prompt-file", prompt), "not both"),
        (("--system-prompt-file", prompt), "system.txt is not UTF-8"),
        (("--metric", "loss"), "metric 'loss' cannot judge answers to this set; known: em,"),
        (("--run", "20260101T000000-abcdef"), "there is no run"),
    ):
        result = climb(base, test, *arguments)
        assert isinstance(result.exception, InvalidRequest), result.output
        assert problem in result.exception.message


def test_a_version_by_reference_is_asked(
    base: BaseDirectory, adapter: Path, files: tuple[Path, Path], tmp_path: Path, home: TrainingHome
) -> None:
    store = tmp_path / "store"
    bundle = Bundle.read(adapter)
    with open_registry(RegistrySettings(), home, store=str(store)) as registry:
        push(registry, "team/x", bundle, bundle.manifest(), by="tests", alias="prod")

    found = report_of(
        base, files[1], "--train", files[0], "--adapter", "team/x@prod", "--registry", store,
        "--k", 0,
    )  # fmt: skip

    assert [rung["name"] for rung in found["rungs"]] == ["zero_shot", "adapter"]
    assert found["adapter"] == "team/x@prod"
    assert found["weights"] == str(hash_file(adapter / "adapter_model.safetensors").digest)


@pytest.fixture
def run(base: BaseDirectory, files: tuple[Path, Path], home: TrainingHome) -> Run:
    options = ("--base", base.path, "--r", 2, "--epochs", 1, "--batch-size", 8)
    arguments = (files[0], *options, "--learning-rate", 0.05)
    result = CliRunner().invoke(train, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    (directory,) = home.runs.iterdir()
    return Run.find(home.runs, directory.name)


def test_a_run_keeps_its_ladder_and_the_pushed_version_states_it(
    base: BaseDirectory, files: tuple[Path, Path], run: Run, tmp_path: Path, home: TrainingHome
) -> None:
    store = tmp_path / "store"
    options = ("--run", run.id, "--k", 2, "--system-prompt", "Say one word.")

    result = climb(base, files[1], *options)
    assert result.exit_code == 0, (result.output, result.exception)
    first = Bundle.read(run.adapter).manifest(lineage=run.lineage).digest
    kept = json.loads((run.directory / "ladder.json").read_text())
    again = CliRunner().invoke(ladder, [str(a) for a in (files[1], "--max-tokens", 3, *options)])
    pushed = CliRunner().invoke(
        push_command,
        [str(run.adapter), "team/x", "--run", run.id, "--registry", str(store)],
    )

    assert again.exit_code == pushed.exit_code == 0, (pushed.output, pushed.exception)
    with open_registry(RegistrySettings(), home, store=str(store)) as registry:
        (version,) = registry.adapters.versions("team/x")
        manifest = registry.versions.manifest(version.manifest_digest)
    assert version.manifest_digest == first  # the same ladder is the same version
    assert kept["manifest_digest"] == run.record.manifest_digest == str(first)
    assert kept["num_train_rows"] == manifest.provenance["num_train_rows"] < 25  # not validation
    assert kept["verdict"]["text"] in unescape((run.directory / "ladder.html").read_text())
    stated = manifest.provenance["ladder"]
    assert stated["weights"] == str(manifest.file("adapter_model.safetensors").digest)
    assert stated["verdict"] == kept["verdict"]["outcome"]
    assert stated["text"] == kept["verdict"]["text"]
    assert set(stated["rungs"]) == set(RUNGS)
    assert "latency" not in json.dumps(stated)
    for rung in kept["rungs"]:
        score = rung["metrics"][kept["metric"]]
        assert manifest.metrics[f"ladder_{rung['name']}"] == score["value"]
        assert stated["rungs"][rung["name"]]["score"] == pytest.approx(
            [score["value"], score["low"], score["high"]], abs=1e-6
        )
    assert manifest.provenance["spec"]["r"] == 2  # what was stated before is still there
    assert {"validation_loss", "train_loss"} <= manifest.metrics.keys()
    assert str(tmp_path) not in manifest.canonical_json().decode()


def test_a_run_whose_rows_have_changed_or_gone_is_refused(
    base: BaseDirectory, files: tuple[Path, Path], run: Run
) -> None:
    before = (run.adapter / "hotswap.json").read_bytes()

    write(files[0], questions(0, 24))
    changed = climb(base, files[1], "--run", run.id)
    files[0].unlink()
    gone = climb(base, files[1], "--run", run.id)

    assert isinstance(changed.exception, InvalidData)
    assert "is not what run" in changed.exception.message
    assert isinstance(gone.exception, InvalidRequest)
    assert "not there any more" in gone.exception.message
    assert (run.adapter / "hotswap.json").read_bytes() == before


def test_help_shows_an_example_and_imports_no_torch() -> None:
    text = help_without_torch("ladder")

    assert "hotswap ladder test.jsonl --run" in text

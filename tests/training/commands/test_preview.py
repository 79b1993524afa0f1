"""What `hotswap train --plan` and `--show-mask` say, held against a run that is really set up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from hotswap.registry.domain.errors import InvalidRequest, InvalidSettings
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.rendering import render
from hotswap.training.batches import collate
from hotswap.training.commands.train import train
from hotswap.training.data.example import Example, Place
from hotswap.training.data.tokens import CLOSE, OPEN, marked, tokenize
from hotswap.training.loop.optimizer import MasterWeights
from hotswap.training.loop.pace import Pace, measure_pace
from hotswap.training.loss import train_pass, trainable
from hotswap.training.methods.adapted import adapt
from hotswap.training.methods.plan import Memory, largest_pass, make_plan, saved_bytes
from hotswap.training.runs import run as run_module
from hotswap.training.settings import TrainingHome
from hotswap.training.spec import TrainingSpec
from tests.training.conftest import WriteRows
from tests.training.rows import counting, examples_of, tokenized

# PEFT 0.21 reads an attribute that transformers 5.24 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

METHODS = ["lora", "qlora", "dora", "pissa", "olora", "full"]
each_method = pytest.mark.parametrize("method", METHODS)


def spec_of(**values: Any) -> TrainingSpec:
    return TrainingSpec.parse({"data": Path("rows.jsonl"), "r": 4, **values})


def size_of(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


@each_method
def test_the_plan_counts_what_a_run_really_trains_and_publishes(
    base: BaseDirectory, prompt: PromptFormat, method: str
) -> None:
    spec = spec_of(method=method)
    adapted = adapt(base, spec, longest_row=64)
    published = adapted.plain_lora(adapted.snapshot()).tensors

    plan = make_plan(base, spec, tokenized(20, prompt, base))

    factors = [t for name, t in published.items() if "magnitude" not in name]
    assert plan.num_trainable == sum(p.numel() for p in trainable(adapted.model))
    assert plan.num_published == sum(tensor.numel() for tensor in factors)
    assert plan.num_adapted == sum(layer.num_in * layer.num_out for layer in plan.layers)


@each_method
def test_the_planned_bytes_are_those_of_a_real_step(
    base: BaseDirectory, prompt: PromptFormat, method: str
) -> None:
    spec = spec_of(method=method)
    rows = tokenized(20, prompt, base)
    adapted = adapt(base, spec, longest_row=64)
    weights = MasterWeights(trainable(adapted.model), adapted.masters, spec)
    batch = largest_pass(rows, spec)
    adapted.model.train()
    train_pass(adapted.model, collate(batch, pad_id=2), num_supervised=10)
    gradients = size_of([p.grad for p in trainable(adapted.model) if p.grad is not None])
    weights.gather()
    gradients += size_of(weights.gradients)
    weights.step(0.0)
    state = [tensor for tensor in weights.state().values() if tensor.ndim]  # no step counts

    memory = make_plan(base, spec, rows).memory

    assert memory.gradients_bytes == gradients
    assert memory.optimizer_bytes == size_of(state)
    held = size_of(list(adapted.model.parameters()))
    if method == "qlora":  # its scales are no parameters
        states = [m.weight.quant_state for m in adapted.model.modules() if is_nf4(m)]
        held += size_of([t for s in states for t in (s.absmax, s.state2.absmax)])
    # The last block of scales of a layer may be cut short, which shows in layers as small as these.
    assert memory.weights_bytes == pytest.approx(held, rel=0.02 if method == "qlora" else 1e-9)
    assert memory.kept_bytes == size_of(list(adapted.snapshot().values())) * (
        2 if method in ("pissa", "olora") else 1
    )


def is_nf4(module: torch.nn.Module) -> bool:
    return hasattr(getattr(module, "weight", None), "quant_state")


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
@pytest.mark.parametrize("words", [1, 40])  # eager attention, fused attention
def test_the_planned_activations_are_what_autograd_keeps_of_the_longest_pass(
    base: BaseDirectory, prompt: PromptFormat, method: str, words: int
) -> None:
    spec = spec_of(method=method, dtype="bfloat16")
    given = [{**row, "question": row["question"] * words} for row in counting(12)]
    rows = [tokenize(example, prompt, base.tokenizer) for example in examples_of(given)]
    longest = max(len(row.ids) for row in rows)
    model = adapt(base, spec, longest).model
    ids = collate(largest_pass(rows, spec), pad_id=2).ids
    inner = getattr(model, "get_base_model", lambda: model)()
    real = saved_bytes(lambda: inner.base_model(input_ids=ids, use_cache=False), model)

    planned = make_plan(base, spec, rows).memory.activations_bytes

    if longest <= 128:
        assert planned == real
    else:  # without values nobody can see that the mask is the plain causal one
        assert real <= planned <= 1.3 * real


def test_the_peak_takes_the_larger_of_a_pass_and_the_second_base() -> None:
    memory = Memory(
        weights_bytes=1,
        optimizer_bytes=20,
        gradients_bytes=300,
        activations_bytes=4000,
        logits_bytes=50000,
        kept_bytes=600000,
        publishing_bytes=54300,
    )
    assert memory.peak_bytes == 654321


def test_a_base_with_untied_or_tied_heads_is_counted_once(base: BaseDirectory) -> None:
    plan = make_plan(base, spec_of(), [])

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.path)
    assert plan.num_model == model.num_parameters()
    assert plan.memory.activations_bytes == 0


def test_the_time_is_that_of_all_epochs_and_validations(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(10, prompt, base)
    spec = spec_of(num_epochs=3, batch_size=4, validate_every_steps=2)
    pace = Pace(activations_bytes=0, train_tokens_per_s=50.0, validation_tokens_per_s=100.0)

    seconds = pace.seconds(spec, rows[:9], rows[9:])

    train_tokens = 3 * sum(len(row.ids) for row in rows[:9])
    num_validations = 1 + 5  # step 0; steps 2, 4, 6, 8 and the last, 9
    assert seconds == pytest.approx(train_tokens / 50 + num_validations * len(rows[9].ids) / 100)


def test_measuring_the_pace_leaves_chance_as_it_was_and_keeps_within_the_plan(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    spec = spec_of(batch_size=4)
    rows = tokenized(10, prompt, base)
    before = torch.random.get_rng_state()

    pace = measure_pace(base, spec, rows)

    planned = make_plan(base, spec, rows).memory.activations_bytes
    assert 0 < pace.activations_bytes <= planned
    assert pace.train_tokens_per_s > 0
    assert pace.validation_tokens_per_s > 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_mask_marks_the_answers_and_their_end_tokens_and_no_more(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    example = Example(
        (
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two fox"},
            {"role": "user", "content": "three"},
            {"role": "assistant", "content": "four"},
        ),
        Place("rows.jsonl", 1),
    )
    row = tokenize(example, prompt, base.tokenizer)

    text = marked(row, base.tokenizer, coloured=False)

    marks = [part.split(CLOSE)[0] for part in text.split(OPEN)[1:]]
    assert marks == ["two fox<|im_end|>", "four<|im_end|>"]
    assert text.replace(OPEN, "").replace(CLOSE, "") == render(prompt, example.messages[:3]) + (
        "four<|im_end|>"
    )
    assert "\x1b" not in text
    assert "\x1b[32m⟦two fox<|im_end|>⟧\x1b[0m" in marked(row, base.tokenizer, coloured=True)


def test_control_characters_of_the_data_do_not_reach_the_terminal(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = [{"question": "one \x1b[2J", "answer": "\x07two"}]
    row = tokenize(examples_of(rows)[0], prompt, base.tokenizer)

    text = marked(row, base.tokenizer, coloured=False)

    assert r"\x1b[2J" in text
    assert r"⟦\x07two" in text
    assert "\x1b" not in text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        "hotswap.training.commands.train.read_home", lambda _: TrainingHome(tmp_path / "home")
    )
    return tmp_path / "home"


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(run_module, "finetune", never)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(train, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("untrained")
def test_a_plan_is_printed_and_nothing_is_trained(
    base: BaseDirectory, home: Path, write_rows: WriteRows
) -> None:
    result = invoke(write_rows(counting(20)), "--base", base.path, "--r", 4, "--plan")

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    q_proj = next(line.split() for line in lines if "q_proj" in line)
    assert q_proj == [
        *("2", "×", "model.layers.*.self_attn.q_proj", "128", "×", "64"),
        *("16,384", "1,536", "9.38%"),  # 2 · 128 · 64, 2 · 4 · (128 + 64)
    ]
    assert any(line.startswith("memory: ") for line in lines)
    assert any(line.startswith("time: about ") for line in lines)
    assert not home.exists()


@pytest.mark.usefixtures("untrained")
def test_a_plan_for_a_rank_that_saves_nothing_is_refused(
    base: BaseDirectory, home: Path, write_rows: WriteRows
) -> None:
    data = write_rows(counting(20))

    for more in ([], ["--plan"]):
        result = invoke(data, "--base", base.path, "--r", 32, *more)

        assert isinstance(result.exception, InvalidSettings)
        assert "saves nothing" in result.exception.message
    assert not home.exists()


@pytest.mark.usefixtures("untrained")
def test_masks_of_as_many_rows_as_asked_for_are_shown_without_colour_in_a_file(
    base: BaseDirectory, home: Path, write_rows: WriteRows
) -> None:
    data = write_rows(counting(20))
    options = ("--base", base.path, "--r", 4)

    results = [invoke(data, *options, "--show-mask"), invoke(data, *options, "--show-mask", 5)]

    assert [result.stdout.count(f"<|im_end|>{CLOSE}") for result in results] == [3, 5]
    assert "tokens are supervised" in results[0].stdout
    assert "\x1b" not in results[0].stdout
    assert not home.exists()


@pytest.mark.usefixtures("untrained")
def test_masks_can_be_written_to_a_file_all_or_as_many_as_asked_for(
    base: BaseDirectory, home: Path, write_rows: WriteRows, tmp_path: Path
) -> None:
    data, every, some = write_rows(counting(20)), tmp_path / "every.txt", tmp_path / "some.txt"
    options = (data, "--base", base.path, "--r", 4)

    result = invoke(*options, "--mask-file", every)
    invoke(*options, "--show-mask", 5, "--mask-file", some)

    num_rows = int(result.stdout.partition(" rows with their masks written to")[0].split("\n")[-1])
    written = every.read_text(encoding="utf-8")
    assert f"{num_rows} rows to train on" in result.stdout
    assert written.count(f"<|im_end|>{CLOSE}") == written.count("tokens are supervised") == num_rows
    assert written.startswith(some.read_text(encoding="utf-8"))
    assert some.read_text(encoding="utf-8").count("tokens are supervised") == 5
    assert "\x1b" not in written
    assert OPEN not in result.stdout
    for path, problem in ((every, "File exists"), (tmp_path / "no/file", "No such file")):
        refused = invoke(*options, "--mask-file", path)
        assert isinstance(refused.exception, InvalidRequest)
        assert f"{path}: {problem}" in refused.exception.message
    assert every.read_text(encoding="utf-8") == written
    assert not home.exists()

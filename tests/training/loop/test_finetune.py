from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import set_peft_model_state_dict
from transformers import AutoModelForCausalLM

from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.batches import collate, micro_batches
from hotswap.training.data.tokens import tokenize
from hotswap.training.errors import TrainingDiverged
from hotswap.training.loop.finetune import finetune
from hotswap.training.loop.optimizer import MasterWeights, learning_rate
from hotswap.training.loop.outcome import Outcome
from hotswap.training.loop.progress import Silence
from hotswap.training.loss import Tally, measure, train_pass, trainable
from hotswap.training.methods.loading import load_lora_model
from hotswap.training.spec import TrainingSpec
from tests.refusals import refused
from tests.training.rows import counting, examples_of, tokenized


def spec_of(**values: Any) -> TrainingSpec:
    known = {"data": Path("rows.jsonl"), "r": 4, "dtype": "float32", "learning_rate": 0.01}
    return TrainingSpec.parse({**known, **values})


def run(base: BaseDirectory, prompt: PromptFormat, **values: Any) -> Outcome:
    rows = tokenized(40, prompt, base)
    return finetune(spec_of(**values), base, rows[:32], rows[32:], Silence())


def full_logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits


def test_a_step_0_adapter_leaves_logits_unchanged(base: BaseDirectory) -> None:
    ids = torch.arange(3, 60).view(3, 19)
    plain = AutoModelForCausalLM.from_pretrained(
        base.path, dtype=torch.float32, attn_implementation="eager"
    )

    model, _ = load_lora_model(base, spec_of(), longest_row=19)

    assert torch.equal(full_logits(model, ids), full_logits(plain, ids))


@pytest.mark.parametrize("longest_row", [64, 512])  # eager attention, fused attention
def test_the_loss_is_that_of_a_full_forward_with_labels(
    base: BaseDirectory, prompt: PromptFormat, longest_row: int
) -> None:
    rows = tokenized(6, prompt, base)
    model, _ = load_lora_model(base, spec_of(), longest_row)
    length = max(len(row.ids) for row in rows)
    ids = torch.full((6, length), 2)
    mask = torch.zeros(6, length, dtype=torch.long)
    labels = torch.full((6, length), -100)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        mask[index, : len(row.ids)] = 1
        for place, supervised in enumerate(row.supervised):
            if supervised:
                labels[index, place] = row.ids[place]
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, labels=labels).loss.item()

    tally = measure(model, collate(rows, pad_id=2))

    assert tally.loss == pytest.approx(expected, rel=1e-5)
    assert tally.num_supervised == int((labels[:, 1:] != -100).sum())


def test_token_accuracy_counts_right_first_choices(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(8, prompt, base)
    model, _ = load_lora_model(base, spec_of(), longest_row=64)
    right = sum(
        int(full_logits(model, torch.tensor([row.ids]))[0, place - 1].argmax()) == row.ids[place]
        for row in rows
        for place, supervised in enumerate(row.supervised)
        if supervised
    )

    tally = measure(model, collate(rows, pad_id=2))

    assert tally.correct == right


def gradients(model: Any, masters: list[torch.Tensor], passes: list[Any], total: int) -> Any:
    weights = MasterWeights(trainable(model), masters, spec_of())
    for rows in passes:
        train_pass(model, collate(rows, pad_id=2), total)
        weights.gather()
    return [gradient.clone() for gradient in weights.gradients]


def with_random_b(model: torch.nn.Module) -> None:
    """B is zero at first and hides A's gradient."""
    torch.manual_seed(1)
    for parameter in trainable(model):
        parameter.data = torch.randn_like(parameter) * 0.1


def test_accumulated_gradients_equal_the_large_batch(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(12, prompt, base)
    total = sum(row.num_supervised for row in rows)
    model, masters = load_lora_model(base, spec_of(), longest_row=64)
    with_random_b(model)

    whole = gradients(model, masters, [rows], total)
    cut = gradients(model, [m.detach().clone() for m in masters], micro_batches(rows, 80), total)

    assert len(micro_batches(rows, 80)) > 3
    for expected, found in zip(whole, cut, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_the_mean_loss_by_autograd(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(1, prompt, base)
    model, masters = load_lora_model(base, spec_of(), longest_row=64)
    with_random_b(model)
    ids = torch.tensor([rows[0].ids])
    labels = torch.where(torch.tensor([rows[0].supervised]), ids, -100)

    ours = gradients(model, masters, [rows], rows[0].num_supervised)
    model(input_ids=ids, labels=labels).loss.backward()

    for parameter, found in zip(trainable(model), ours, strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-5)


def test_micro_batches_do_not_change_the_trained_weights(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    whole = run(base, prompt, num_epochs=1, batch_size=8)
    cut = run(base, prompt, num_epochs=1, batch_size=8, micro_batch_tokens=60)

    for name, tensor in whole.best.tensors.items():
        torch.testing.assert_close(cut.best.tensors[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_validation_loss_falls_on_a_learnable_task(
    base: BaseDirectory, prompt: PromptFormat, dtype: str
) -> None:
    metrics = run(base, prompt, num_epochs=6, dtype=dtype).metrics()

    assert metrics["validation_loss"] < 0.5 * metrics["base_validation_loss"]
    assert metrics["validation_token_accuracy"] > metrics["base_validation_token_accuracy"]


def test_the_best_checkpoint_is_the_lowest_validation_loss_and_not_the_last(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(32, prompt, base)
    wrong = [{**row, "answer": "one five"} for row in counting(16)]  # overfitting shows early
    validation = [tokenize(e, prompt, base.tokenizer) for e in examples_of(wrong)]
    outcome = finetune(spec_of(num_epochs=8), base, rows, validation, Silence())

    measured = {0: outcome.first_validation} | {
        p.step: p.validation for p in outcome.curve if p.validation is not None
    }
    losses = {step: tally.loss for step, tally in measured.items() if tally is not None}
    lowest = min(losses, key=lambda step: losses[step])
    assert len(losses) == 9
    assert 0 < lowest < outcome.num_steps
    assert outcome.best.step == lowest
    model, _ = load_lora_model(base, spec_of(), longest_row=64)
    set_peft_model_state_dict(model, outcome.best.tensors)
    again = measure(model, collate(validation, pad_id=2))
    assert again.loss == pytest.approx(losses[lowest], rel=1e-5)


def test_no_epochs_give_the_adapter_of_step_0(base: BaseDirectory, prompt: PromptFormat) -> None:
    outcome = run(base, prompt, num_epochs=0)

    assert outcome.best.step == 0
    assert all(not t.any() for name, t in outcome.best.tensors.items() if "lora_B" in name)
    assert "train_loss" not in outcome.metrics()


def test_without_validation_rows_the_last_checkpoint_is_kept(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(20, prompt, base)

    outcome = finetune(spec_of(num_epochs=2), base, rows, [], Silence())

    assert outcome.best.step == outcome.num_steps == 4
    assert "validation_loss" not in outcome.metrics()
    assert outcome.metrics()["train_loss"] == pytest.approx(
        sum((p.train for p in outcome.curve[2:]), Tally()).loss
    )


def test_a_loss_that_is_no_number_stops_the_run(base: BaseDirectory, prompt: PromptFormat) -> None:
    with refused(TrainingDiverged):
        run(base, prompt, num_epochs=20, learning_rate=1e30, max_grad_norm=1e30, batch_size=8)


def test_training_leaves_torch_as_it_found_it(base: BaseDirectory, prompt: PromptFormat) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    run(base, prompt, num_epochs=1)

    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_the_rate_rises_then_follows_its_schedule(schedule: str, rates: list[float]) -> None:
    spec = spec_of(schedule=schedule, learning_rate=1.0, warmup_ratio=1 / 3)

    found = [learning_rate(spec, step, 6) for step in range(1, 7)]

    assert found == pytest.approx(rates, abs=1e-6)


def test_a_gradient_is_clipped_to_its_norm() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    weights = MasterWeights([parameter], [torch.zeros(4)], spec_of(max_grad_norm=1.0))
    parameter.grad = torch.full((4,), 3.0)
    weights.gather()

    assert weights.step(rate=0.1) == pytest.approx(6.0)
    assert parameter.grad is None
    assert torch.allclose(parameter.detach(), torch.full((4,), -0.1))

"""The packed pass against transformers' and PEFT's own code, on every Llama-like family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hotswap.registry.domain.prompts import PromptFormat
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.batches import TrainingBatch, collate
from hotswap.training.data.example import Place
from hotswap.training.data.tokens import Row
from hotswap.training.loss import measure, train_pass, trainable
from hotswap.training.methods.loading import load_lora_model
from hotswap.training.packed.choice import packed, unsupported
from hotswap.training.packed.layout import Layout
from hotswap.training.spec import TrainingSpec
from tests.serving.families import LLAMA_LIKE, WINDOW, make_family
from tests.training.rows import tokenized

PAD = 2


def spec_of(**values: Any) -> TrainingSpec:
    known = {"data": Path("rows.jsonl"), "r": 4, "lora_alpha": 4, "dtype": "float32"}
    return TrainingSpec.parse({**known, **values})


def row(ids: Sequence[int], *supervised: int) -> Row:
    return Row(
        tuple(ids), tuple(place in supervised for place in range(len(ids))), Place("rows.jsonl", 1)
    )


def a_model(base: BaseDirectory, **values: Any) -> Any:
    """With A and B both random, so that every gradient is there."""
    torch.manual_seed(3)
    model, _ = load_lora_model(base, spec_of(**values), longest_row=64)
    for parameter in trainable(model):
        parameter.data = torch.randn_like(parameter) * 0.1
    return model


def by_transformers(model: Any, rows: Sequence[Row]) -> tuple[float, list[Tensor]]:
    """The mean loss and its gradients, from a padded batch with a mask and labels."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), PAD)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for index, one in enumerate(rows):
        ids[index, : len(one.ids)] = torch.tensor(one.ids)
        mask[index, : len(one.ids)] = 1
        for place, supervised in enumerate(one.supervised):
            if supervised:
                labels[index, place] = one.ids[place]
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return loss.item(), _take_gradients(model)


def by_packing(model: Any, rows: Sequence[Row]) -> tuple[float, list[Tensor]]:
    assert packed(model) is not None, unsupported(model)
    batch = collate(rows, PAD)
    tally = train_pass(model, batch, batch.num_supervised)
    return tally.loss, _take_gradients(model)


def _take_gradients(model: Any) -> list[Tensor]:
    found = [parameter.grad for parameter in trainable(model)]
    for parameter in trainable(model):
        parameter.grad = None
    return found


def assert_same_gradients(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("family", LLAMA_LIKE)
def test_loss_and_gradients_are_those_of_transformers_and_peft(
    family: str, tmp_path: Path, prompt: PromptFormat
) -> None:
    base = make_family(tmp_path, family)
    rows = tokenized(7, prompt, base)
    assert min(len(row.ids) for row in rows) > WINDOW
    model = a_model(base)

    expected = by_transformers(model, rows)
    found = by_packing(model, rows)

    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert_same_gradients(found[1], expected[1])


ROWS = {
    "one row": [row([5, 6, 7, 8, 9], 3, 4)],
    "no common beginning": [row([5, 6, 7], 2), row([6, 5, 7, 9], 2, 3)],
    "equal rows": [row([5, 6, 7, 8], 2, 3), row([5, 6, 7, 8], 2, 3)],
    "one row begins the other": [row([5, 6, 7, 8], 2, 3), row([5, 6, 7, 8, 9, 4], 4, 5)],
    "answers in the common beginning": [
        row([5, 6, 7, 8, 9], 1, 2, 4), row([5, 6, 7, 3, 9, 8], 1, 2, 5), row([5, 6, 7, 3], 1),
    ],
    "a row without an answer": [row([5, 6, 7, 8]), row([5, 6, 7, 8, 9, 4], 4, 5)],
    "questions behind the last answer": [row([5, 6, 7, 8, 9, 9], 2), row([5, 3, 7, 4], 3)],
}  # fmt: skip


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_rows_of_any_form_have_the_gradients_they_have_when_padded(
    base: BaseDirectory, rows: list[Row]
) -> None:
    model = a_model(base)

    expected = by_transformers(model, rows)
    found = by_packing(model, rows)

    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert_same_gradients(found[1], expected[1])


@pytest.mark.parametrize("modules", [("q_proj", "down_proj"), ("up_proj",), ("k_proj", "o_proj")])
def test_layers_that_are_not_adapted_are_plain(
    base: BaseDirectory, prompt: PromptFormat, modules: tuple[str, ...]
) -> None:
    model = a_model(base, target_modules=modules, use_rslora=True)
    rows = tokenized(4, prompt, base)

    expected = by_transformers(model, rows)
    found = by_packing(model, rows)

    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert_same_gradients(found[1], expected[1])


def test_bfloat16_is_as_near_to_float32_as_peft_is(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    rows = tokenized(16, prompt, base)
    exact = by_transformers(a_model(base), rows)
    model = a_model(base, dtype="bfloat16")
    for rounded, parameter in zip(trainable(model), trainable(a_model(base)), strict=True):
        rounded.data = parameter.data.bfloat16()

    theirs = by_transformers(model, rows)
    ours = by_packing(model, rows)

    def distance(found: Sequence[Tensor]) -> float:
        off = sum(
            float((a.float() - b).square().sum()) for a, b in zip(found, exact[1], strict=True)
        )
        return off**0.5

    assert abs(ours[0] - exact[0]) < 0.02
    assert distance(ours[1]) < 1.2 * distance(theirs[1])


def test_measuring_is_what_training_sees(base: BaseDirectory, prompt: PromptFormat) -> None:
    model = a_model(base)
    batch = collate(tokenized(6, prompt, base), PAD)

    assert measure(model, batch) == train_pass(model, batch, batch.num_supervised)


def test_a_step_of_the_optimiser_is_seen_by_the_next_pass(
    base: BaseDirectory, prompt: PromptFormat
) -> None:
    model = a_model(base)
    rows = tokenized(4, prompt, base)
    by_packing(model, rows)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.mul_(1.5)

    assert by_packing(model, rows)[0] == pytest.approx(by_transformers(model, rows)[0], rel=1e-5)


def test_the_base_is_in_memory_once(base: BaseDirectory) -> None:
    model = a_model(base)
    layer = model.get_base_model().model.layers[0]
    before = [p.detach().clone() for p in model.parameters()]

    assert packed(model) is not None

    owner = layer.self_attn.q_proj.base_layer.weight.untyped_storage().data_ptr()
    for sibling in (layer.self_attn.k_proj, layer.self_attn.v_proj):
        assert sibling.base_layer.weight.untyped_storage().data_ptr() == owner
    for ours, theirs in zip(model.parameters(), before, strict=True):
        assert torch.equal(ours, theirs)


def test_a_common_beginning_stands_in_the_line_once() -> None:
    rows = [row([5, 6, 7, 8, 9], 3, 4), row([5, 6, 4, 8], 3), row([5, 6, 7, 8, 3, 2], 4, 5)]

    layout = Layout.of(collate(rows, PAD))

    assert layout.num_prefix == 2
    # Without each row's last token: nothing is predicted from it.
    assert layout.ids.tolist() == [5, 6, 7, 8, 4, 7, 8, 3]
    assert layout.positions.tolist() == [0, 1, 2, 3, 2, 2, 3, 4]
    assert layout.answers.tolist() == [2, 3, 4, 6, 7]


def test_rows_have_the_prefix_and_their_last_token_again_behind_them() -> None:
    rows = [row([5, 6, 7, 8, 9], 3, 4), row([5, 6, 4, 8], 3), row([5, 6, 7, 8, 3, 2], 4, 5)]
    layout = Layout.of(collate(rows, PAD))

    assert layout.rows(layout.ids).tolist() == [[5, 6, 7, 8, 8], [5, 6, 4, 4, 4], [5, 6, 7, 8, 3]]


def test_a_grid_is_undone_by_a_line() -> None:
    rows = [row([5, 6, 7, 8, 9], 4), row([6, 4], 1), row([7, 7, 7], 2)]
    layout = Layout.of(collate(rows, PAD))
    own = torch.randn(len(layout.ids), 3)

    grid = layout.grid(own)

    assert grid.shape == (3, 4, 3)
    assert not grid[1, 1:].any()
    assert torch.equal(layout.line(grid), own)


def test_a_batch_without_supervised_tokens_is_refused() -> None:
    batch = TrainingBatch(
        torch.ones(1, 3, dtype=torch.long), *[torch.empty(0, dtype=torch.long)] * 3, 3
    )

    with pytest.raises(ValueError, match="without supervised tokens"):
        Layout.of(batch)


@pytest.mark.parametrize(
    ("values", "reason"),
    [({"lora_dropout": 0.1}, "dropout"), ({"method": "dora"}, "special"),
     ({"method": "qlora"}, "Linear4bit")],
)  # fmt: skip
def test_what_is_not_packed_trains_through_peft(
    base: BaseDirectory, prompt: PromptFormat, values: dict[str, Any], reason: str
) -> None:
    model = a_model(base, **values)
    batch = collate(tokenized(2, prompt, base), PAD)

    assert reason in str(unsupported(model))
    assert packed(model) is None
    train_pass(model, batch, batch.num_supervised)
    assert all(gradient is not None for gradient in _take_gradients(model))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
def test_other_families_train_through_peft(tmp_path: Path, prompt: PromptFormat) -> None:
    model = a_model(make_family(tmp_path, "gpt2"))

    assert "it is of type 'gpt2'" in str(unsupported(model))

from __future__ import annotations

from pathlib import Path

import pytest

from hotswap.registry.settings import read_home
from hotswap.serving.base_model import BaseDirectory, provide_base
from hotswap.serving.errors import BaseNotFound
from hotswap.training.data.tokens import tokenize
from hotswap.training.loop.finetune import finetune
from hotswap.training.loop.progress import Silence
from hotswap.training.settings import TrainingHome
from hotswap.training.spec import TrainingSpec
from tests.training.rows import examples_of, orders


@pytest.fixture(scope="module")
def real_base() -> BaseDirectory:
    try:
        return provide_base("smollm2-135m", read_home(TrainingHome).bases)
    except BaseNotFound as error:
        pytest.skip(error.message)


@pytest.mark.real
def test_a_few_steps_teach_the_real_base_the_form_of_an_order(real_base: BaseDirectory) -> None:
    rows, heldout = orders(48, 16, seed=7)
    prompt = real_base.prompt_format(system_prompt="Order to JSON.")
    train, validation = (
        [tokenize(e, prompt, real_base.tokenizer) for e in examples_of(part)]
        for part in (rows, heldout)
    )
    spec = TrainingSpec(data=Path("train.jsonl"), num_epochs=1, batch_size=8)

    metrics = finetune(spec, real_base, train, validation, Silence()).metrics()

    assert metrics["base_validation_loss"] > 2
    assert metrics["validation_loss"] < 0.5
    assert metrics["validation_token_accuracy"] > 0.85

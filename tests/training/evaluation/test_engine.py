from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.transfer import push
from hotswap.registry.connect import open_registry
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.settings import Home, RegistrySettings
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.errors import BaseMismatch, ContextLengthExceeded
from hotswap.serving.settings import Quantization
from hotswap.training.evaluation.engine import FreshEngine, fresh_engine
from tests.peft_adapters import load_reference, make_adapter
from tests.refusals import refused
from tests.tiny_base import make_tiny_base
from tests.training.evaluation.conftest import SETTINGS
from tests.training.rows import counting, tokenized

CONVERSATIONS = [[{"role": "user", "content": row["question"]}] for row in counting(6)]


def test_answers_come_in_order_whatever_runs_beside_them(
    engine: FreshEngine, adapter: Path
) -> None:
    target = engine.load(adapter)

    together = engine.answers(CONVERSATIONS, target, max_tokens=12)
    alone = [engine.answers([c], target, max_tokens=12, concurrency=1)[0] for c in CONVERSATIONS]

    assert [a.text for a in together] == [a.text for a in alone]
    assert len({a.text for a in together}) > 1
    assert all(0 < a.num_output_tokens <= 12 for a in together)
    assert all(a.latency_s > 0 for a in together)


def test_the_adapter_answers_and_not_the_base(engine: FreshEngine, adapter: Path) -> None:
    target = engine.load(adapter)

    adapted = engine.answers(CONVERSATIONS, target, max_tokens=12)
    plain = engine.answers(CONVERSATIONS, engine.base(target.prompt), max_tokens=12)

    assert [a.text for a in adapted] != [a.text for a in plain]
    assert [a.num_prompt_tokens for a in adapted] == [a.num_prompt_tokens for a in plain]


def test_an_answer_that_is_cut_off_says_so(engine: FreshEngine) -> None:
    (answer,) = engine.answers(CONVERSATIONS[:1], engine.base(), max_tokens=2)

    assert (answer.finish_reason, answer.num_output_tokens) == ("length", 2)


def test_a_version_keeps_its_digest(engine: FreshEngine, adapter: Path, tmp_path: Path) -> None:
    bundle = Bundle.read(adapter)
    manifest = bundle.manifest(metrics={"em": 0.5})
    with open_registry(RegistrySettings(), Home(tmp_path)) as registry:
        pushed = push(registry, "team/x", bundle, manifest, by="tests", alias="prod")

        target = engine.load_version(registry, AdapterRef.parse("team/x@prod"))

    assert target.adapters == ((pushed.manifest_digest, 1.0),)


def test_an_adapter_of_another_base_is_refused(engine: FreshEngine, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path, seed=3, name="other")

    with refused(BaseMismatch, "weights_digest"):
        engine.load(make_adapter(other, tmp_path / "foreign"))


def test_a_conversation_that_does_not_fit_is_refused_and_the_engine_goes_on(
    engine: FreshEngine,
) -> None:
    with pytest.raises(ContextLengthExceeded):
        engine.answers(
            [*CONVERSATIONS, [{"role": "user", "content": "fox " * 3000}]],
            engine.base(),
            max_tokens=4,
        )

    assert len(engine.answers(CONVERSATIONS, engine.base(), max_tokens=4)) == len(CONVERSATIONS)


def test_likelihoods_are_those_of_transformers_and_peft(base: BaseDirectory, adapter: Path) -> None:
    exact = SETTINGS.model_copy(update={"quantization": Quantization.NONE, "dtype": "float32"})
    rows = tokenized(6, base.prompt_format(), base)
    with fresh_engine(base, exact) as engine:
        found = engine.likelihoods(rows, engine.load(adapter))
    model = PeftModel.from_pretrained(load_reference(base), adapter).eval()

    for row, likelihood in zip(rows, found, strict=True):
        ids = torch.tensor(row.ids)
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1].double()
        is_answer = torch.tensor(row.supervised[1:])
        expected = logits.log_softmax(-1)[is_answer].gather(1, ids[1:][is_answer][:, None])
        assert likelihood.logprob == pytest.approx(float(expected.sum()), rel=1e-4)
        assert likelihood.num_tokens == row.num_supervised
        assert likelihood.num_correct == int((logits.argmax(-1) == ids[1:])[is_answer].sum())


def test_the_threads_of_the_process_are_given_back(base: BaseDirectory) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with fresh_engine(base, SETTINGS) as engine:
            engine.answers(CONVERSATIONS[:1], engine.base(), max_tokens=1)

        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

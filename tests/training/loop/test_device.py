"""Training steps on a device that is not the CPU: no tensor is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hotswap.registry.domain.manifest import Probe
from hotswap.serving.adapters.lora import CPU
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.batches import collate
from hotswap.training.loop.optimizer import MasterWeights
from hotswap.training.loop.probes import ProbePrompt, record_probes
from hotswap.training.loss import Tally, measure, train_pass, trainable
from hotswap.training.methods.loading import load_lora_model
from hotswap.training.packed.choice import packed
from hotswap.training.spec import TrainingSpec
from tests.elsewhere import elsewhere, process
from tests.serving.families import make_family
from tests.tiny_base import make_tiny_base
from tests.training.rows import tokenized

NUM_STEPS = 3
PROMPT = ProbePrompt(({"role": "user", "content": "?"},), (5, 6, 7), (8, 9))


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    with process() as pool:
        yield pool


def train(base: BaseDirectory, device: torch.device) -> tuple[list[Tally], list[Tensor], Probe]:
    """Measure, a few steps whose optimiser is restored from host memory between them, and probes.
    What is given lies on the CPU."""
    spec = TrainingSpec.parse({"data": Path("rows.jsonl"), "r": 4, "dtype": "float32"})
    torch.manual_seed(7)
    model = load_lora_model(base, spec, longest_row=64)[0].to(device)
    weights = trainable(model)
    masters = [parameter.detach().float().clone() for parameter in weights]
    optimizer = MasterWeights(weights, masters, spec)
    prompt = base.prompt_format(system_prompt="Count.")
    batch = collate(tokenized(6, prompt, base), 2)
    tallies = [measure(model, batch)]
    for _ in range(NUM_STEPS):
        tallies.append(train_pass(model, batch, batch.num_supervised))
        optimizer.gather()
        optimizer.step(0.01)
        kept = {name: tensor.cpu().clone() for name, tensor in optimizer.state().items()}
        optimizer = MasterWeights(weights, [m.detach().clone() for m in masters], spec)
        optimizer.restore(kept)
    tallies.append(measure(model, batch))
    (probe,) = record_probes(model.eval(), [PROMPT])
    return tallies, [parameter.detach().cpu() for parameter in weights], probe


def train_elsewhere(path: Path, is_packed: bool) -> None:
    base = BaseDirectory(path, path.name)
    here, weights, probe = train(base, CPU)
    with elsewhere() as device:
        there, found, other_probe = train(base, device)
        assert (packed(load_model(base, device)) is not None) == is_packed
    assert there[-1].loss < 0.9 * there[0].loss
    assert [t.loss for t in there] == pytest.approx([t.loss for t in here], rel=1e-4)
    assert [t.correct for t in there] == [t.correct for t in here]
    for got, expected in zip(found, weights, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    assert [top.token_ids for top in other_probe.top] == [top.token_ids for top in probe.top]


def load_model(base: BaseDirectory, device: torch.device) -> torch.nn.Module:
    spec = TrainingSpec.parse({"data": Path("rows.jsonl"), "r": 4, "dtype": "float32"})
    return load_lora_model(base, spec, longest_row=64)[0].to(device)


def test_packed_steps_are_those_of_the_cpu(
    other_process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    other_process.submit(train_elsewhere, make_tiny_base(tmp_path).path, True).result()


def test_steps_through_transformers_are_those_of_the_cpu(
    other_process: ProcessPoolExecutor, tmp_path: Path
) -> None:
    base = make_family(tmp_path, "gpt2")
    other_process.submit(train_elsewhere, base.path, False).result()

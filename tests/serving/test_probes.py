"""An adapter is replayed when it is loaded: what differs from its training is refused."""

from __future__ import annotations

import itertools
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hotswap.registry.domain.manifest import BundleMetadata, Probe, TopTokens
from hotswap.registry.domain.prompts import Message, PromptFormat
from hotswap.registry.registry import Registry
from hotswap.serving.adapters.lora import LoraWeights
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.pages import PAGE, num_pages_of
from hotswap.serving.errors import ProbeMismatch
from hotswap.serving.execution.probes import check_text, disagreement
from hotswap.serving.execution.runner import ModelRunner
from hotswap.serving.http.app import Serving
from hotswap.serving.models import StepInput, StepOutput
from hotswap.serving.settings import PROBE_TOLERANCES, Kernels, Quantization
from hotswap.training.data.example import Example, Place
from hotswap.training.loop.probes import ProbePrompt, probe_prompts, record_probes
from tests.peft_adapters import load_with_peft, make_adapter
from tests.refusals import refused
from tests.serving.conftest import MakeRunner, load_adapter, push_adapter
from tests.serving.test_engine import TIMEOUT_S, Inbox

TOLERANCE = PROBE_TOLERANCES[Quantization.INT8]
QUESTIONS = ("order two pizza", "one large pizza", "help")


@pytest.fixture(scope="module")
def prompts(tiny_base: BaseDirectory) -> tuple[ProbePrompt, ...]:
    return prompts_of(tiny_base)


def prompts_of(base: BaseDirectory, *system: Message) -> tuple[ProbePrompt, ...]:
    answer: Message = {"role": "assistant", "content": '{"item": 2}'}
    examples = [
        Example((*system, {"role": "user", "content": q}, answer), Place("rows.jsonl", line))
        for line, q in enumerate(QUESTIONS, start=1)
    ]
    return probe_prompts(examples, base.prompt_format(), base.tokenizer)


@pytest.fixture(scope="module")
def probes(
    tiny_base: BaseDirectory, adapter_dirs: list[Path], prompts: tuple[ProbePrompt, ...]
) -> tuple[Probe, ...]:
    """What PEFT and transformers say about the first adapter."""
    return record_probes(load_with_peft(tiny_base, adapter_dirs[0]), prompts)


@pytest.fixture(scope="module")
def runner(make_runner: MakeRunner) -> ModelRunner:
    return make_runner()


def disagreement_of(
    runner: ModelRunner, weights: LoraWeights, probes: tuple[Probe, ...], max_rows: int = 7
) -> float:
    with torch.inference_mode():
        runner.load(1, runner.prepare(weights))
        running = disagreement(runner.model, 1, probes, max_rows)
        while True:
            try:
                next(running)
            except StopIteration as end:
                return float(end.value)


def test_what_was_trained_agrees_to_the_rounding_of_the_record(
    runner: ModelRunner, adapter_dirs: list[Path], probes: tuple[Probe, ...]
) -> None:
    assert disagreement_of(runner, load_adapter(adapter_dirs[0]), probes) < 1e-4


def test_probes_agree_however_they_share_steps_and_pages(
    runner: ModelRunner,
    adapter_dirs: list[Path],
    probes: tuple[Probe, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, weights = runner.model, load_adapter(adapter_dirs[0])
    longest = max(len(probe.token_ids) for probe in probes)
    all_pages = model.spare_pages
    for num_pages in (num_pages_of(longest), num_pages_of(longest) + 1, len(all_pages)):
        monkeypatch.setattr(model, "spare_pages", all_pages[:num_pages], raising=False)
        for max_rows in (1, 7, longest, model.max_rows):
            assert disagreement_of(runner, weights, probes, max_rows) < 1e-4
    monkeypatch.setattr(model, "spare_pages", all_pages[: num_pages_of(longest) - 1])
    with refused(ProbeMismatch, (num_pages_of(longest) - 1) * PAGE):
        disagreement_of(runner, weights, probes)


@pytest.mark.parametrize(
    ("kernels", "quantization", "bound"),
    [
        (Kernels.TORCH, Quantization.NONE, 1e-4),
        (Kernels.NATIVE, Quantization.INT8, TOLERANCE),
    ],
)
def test_the_pages_in_which_probes_begin_alike_are_computed_once(
    make_runner: MakeRunner,
    tiny_base: BaseDirectory,
    adapter_dirs: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    kernels: Kernels,
    quantization: Quantization,
    bound: float,
) -> None:
    runner = make_runner(kernels, quantization)
    system: Message = {"role": "system", "content": "one two three four five six seven " * 4}
    prompts = prompts_of(tiny_base, system)
    probes = record_probes(load_with_peft(tiny_base, adapter_dirs[0]), prompts)
    model, rows = runner.model, list[int]()
    forward = model.forward

    def recorded(step: StepInput) -> StepOutput:
        rows.append(len(step.token_ids))
        return forward(step)

    monkeypatch.setattr(model, "forward", recorded)
    weights = load_adapter(adapter_dirs[0])
    assert disagreement_of(runner, weights, probes, model.max_rows) < bound
    num_shared = 0
    for probe in probes[1:]:
        pairs = zip(probes[0].token_ids, probe.token_ids, strict=False)
        num_alike = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        num_shared += num_alike // PAGE * PAGE
    assert num_shared >= 2 * PAGE
    assert sum(rows) == sum(len(probe.token_ids) for probe in probes) - num_shared


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_another_scaling_disagrees(
    runner: ModelRunner, adapter_dirs: list[Path], probes: tuple[Probe, ...], factor: float
) -> None:
    modules = load_adapter(adapter_dirs[0]).modules
    scaled = LoraWeights({name: (a, b * factor) for name, (a, b) in modules.items()})
    assert disagreement_of(runner, scaled, probes) > TOLERANCE


def test_another_adapter_disagrees(
    runner: ModelRunner, adapter_dirs: list[Path], probes: tuple[Probe, ...]
) -> None:
    assert disagreement_of(runner, load_adapter(adapter_dirs[1]), probes) > TOLERANCE


def test_the_same_text_side_passes(tiny_base: BaseDirectory, probes: tuple[Probe, ...]) -> None:
    check_text(probes, tiny_base.prompt_format(), tiny_base.tokenizer)


def test_another_template_is_refused_where_the_tokens_part(
    tiny_base: BaseDirectory, probes: tuple[Probe, ...]
) -> None:
    other = PromptFormat(
        chat_template=tiny_base.chat_template.replace("You help.", "You help"),
        end_of_turn="<|im_end|>",
    )
    with refused(ProbeMismatch):
        check_text(probes, other, tiny_base.tokenizer)


def push_with_probes(
    base: BaseDirectory, registry: Registry, directory: Path, probes: tuple[Probe, ...]
) -> Inbox:
    """A request for an adapter whose manifest carries these probes."""
    metadata = BundleMetadata(base=base.fingerprint(), prompt=base.prompt_format(), probes=probes)
    make_adapter(base, directory, seed=0, metadata=metadata)
    version = push_adapter(registry, "team/probed", directory)
    return Inbox(version.manifest_digest)


def test_an_adapter_that_agrees_is_served(
    serving: Serving,
    registry: Registry,
    tiny_base: BaseDirectory,
    probes: tuple[Probe, ...],
    tmp_path: Path,
) -> None:
    inbox = push_with_probes(tiny_base, registry, tmp_path / "a", probes)
    serving.start()
    try:
        serving.engine.submit(inbox.sequence)
        assert inbox.last().error is None
    finally:
        serving.stop()


def test_a_running_stream_waits_for_one_step_of_a_replay_at_a_time(
    serving: Serving,
    registry: Registry,
    tiny_base: BaseDirectory,
    probes: tuple[Probe, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = serving.runner.model
    forward, steps = model.forward, []

    def recorded(step: StepInput) -> StepOutput:
        is_replay = step.segments[0].pages[0] in model.spare_pages
        steps.append("replay" if is_replay else "stream")
        return forward(step)

    monkeypatch.setattr(model, "forward", recorded)
    cold = push_with_probes(tiny_base, registry, tmp_path / "a", probes)
    arrived = threading.Event()
    monkeypatch.setattr(serving.adapters, "on_arrival", arrived.set)
    ((digest, _),) = cold.sequence.adapters
    serving.adapters.get(digest)  # the stream must not end while it is fetched
    assert arrived.wait(TIMEOUT_S)
    running = Inbox(max_tokens=400)
    serving.start()
    try:
        serving.engine.submit(running.sequence)
        running.next()
        serving.engine.submit(cold.sequence)
        assert cold.last().error is None
        assert not running.sequence.is_finished
    finally:
        serving.stop()
    num_tokens = sum(len(probe.token_ids) for probe in probes)
    assert steps.count("replay") == -(-num_tokens // serving.runner.max_probe_rows) > 3
    assert ("replay", "replay") not in set(pairwise(steps))


def test_an_adapter_that_disagrees_is_refused_with_the_difference(
    serving: Serving,
    registry: Registry,
    tiny_base: BaseDirectory,
    probes: tuple[Probe, ...],
    tmp_path: Path,
) -> None:
    certain = TopTokens(token_ids=(7,), logprobs=(0.0,))
    wrong = tuple(p.model_copy(update={"top": (certain,) * len(p.top)}) for p in probes)
    inbox = push_with_probes(tiny_base, registry, tmp_path / "a", wrong)
    serving.start()
    try:
        serving.engine.submit(inbox.sequence)
        error = inbox.last().error
    finally:
        serving.stop()
    assert isinstance(error, ProbeMismatch)
    assert error.fields["disagreement"] > error.fields["tolerance"]

"""An adapter with a scale, several in one request: what is asked, refused, answered, leased."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from hotswap.registry.domain.access import Principal
from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.errors import Forbidden, HotswapError, InvalidReference
from hotswap.registry.domain.manifest import BundleMetadata
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.registry.http.app import assemble, registry_plane
from hotswap.registry.registry import Registry
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.sequence import SamplingParams, Sequence
from hotswap.serving.errors import NotServable
from hotswap.serving.http.app import Serving
from hotswap.serving.requests.stacks import ScaledName, parse_stack, scaled_text
from hotswap.serving.settings import Kernels, Quantization
from tests.peft_adapters import make_adapter
from tests.refusals import refused
from tests.servers import serving_app
from tests.serving.conftest import MakeRunner, push_adapter
from tests.serving.sequences import make_sequence, run_to_end
from tests.serving.test_engine import Inbox


@pytest.fixture
def versions(registry: Registry, adapter_dirs: list[Path]) -> list[AdapterVersion]:
    """team/a, team/b, team/c, and the DoRA adapter team/dora."""
    chosen = zip("abc", adapter_dirs, strict=False)
    found = [push_adapter(registry, f"team/{name}", path) for name, path in chosen]
    return [*found, push_adapter(registry, "team/dora", adapter_dirs[5])]


@pytest.fixture
def client(
    serving: Serving, registry: Registry, versions: list[AdapterVersion]
) -> Iterator[openai.OpenAI]:
    with serving_app(assemble([registry_plane(registry), serving.plane()])) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as opened:
            yield opened


def complete(client: openai.OpenAI, model: str) -> openai.types.Completion:
    return client.completions.create(model=model, prompt="order one", max_tokens=8, temperature=0)


def test_names_and_scales_are_read_in_order_and_printed_back() -> None:
    parts = parse_stack("team/a@prod * 0.5+team/b:7*-2 + c", 3)
    expected = [("team/a@prod", 0.5), ("team/b:7", -2.0), ("c", 1.0)]
    assert parts == tuple(ScaledName(*part) for part in expected)
    printed = " + ".join(scaled_text(part.model, part.scale) for part in parts)
    assert printed == "team/a@prod*0.5 + team/b:7*-2 + c"
    assert parse_stack(printed, 3) == parts


@pytest.mark.parametrize("scale", ["", "x", "nan", "inf", "1e3", "101", "0.5*2", "--1"])
def test_what_is_no_scale_is_refused(scale: str) -> None:
    with refused(InvalidReference, repr(scale)):
        parse_stack(f"team/a*{scale}", 4)


@pytest.mark.parametrize("model", ["team/a+", "+team/a", "*0.5", "tiny+team/a", "team/a + b + c"])
def test_a_stack_with_a_part_missing_of_the_base_or_too_many_is_refused(
    serving: Serving, versions: list[AdapterVersion], model: str
) -> None:
    with pytest.raises(HotswapError) as caught:
        serving.inference.resolver.resolve(model)
    assert caught.value.status in (400, 404)


def test_a_dora_adapter_is_neither_scaled_nor_stacked(
    serving: Serving, versions: list[AdapterVersion]
) -> None:
    resolver = serving.inference.resolver
    for model in ("team/dora*0.5", "team/a+team/dora"):
        with refused(NotServable, "team/dora:1"):
            resolver.resolve(model)
    assert resolver.resolve("team/dora*1").adapters == ((versions[3].manifest_digest, 1.0),)


def test_adapters_of_different_prompt_formats_are_not_stacked(
    serving: Serving,
    registry: Registry,
    versions: list[AdapterVersion],
    tiny_base: BaseDirectory,
    tmp_path: Path,
) -> None:
    prompt = PromptFormat(chat_template="{{ messages[-1]['content'] }}", end_of_turn="<|im_end|>")
    metadata = BundleMetadata(base=tiny_base.fingerprint(), prompt=prompt)
    push_adapter(registry, "other", make_adapter(tiny_base, tmp_path / "o", metadata=metadata))
    with refused(NotServable, "other:1", "team/a:1"):
        serving.inference.resolver.resolve("team/a+other")


def test_infer_must_cover_each_adapter_of_a_stack(serving: Serving) -> None:
    principal = Principal(name="app", scopes=("infer:team/a",))
    serving.inference.resolver.require_allowed("team/a*0.5", principal)
    with refused(Forbidden, "team/b"):
        serving.inference.resolver.require_allowed("team/a+team/b", principal)


def test_an_answer_names_each_version_and_asking_for_them_gives_it_again(
    client: openai.OpenAI, versions: list[AdapterVersion]
) -> None:
    answer = complete(client, "team/a*0.5+team/b@prod")
    assert answer.model_extra is not None
    told = answer.model_extra["hotswap"]
    assert (told["version"], told["digest"]) == ("team/a:1*0.5 + team/b:1", None)
    assert told["adapters"] == [
        {"version": f"{v.ref}", "digest": str(v.manifest_digest), "scale": scale}
        for v, scale in zip(versions, (0.5, 1.0), strict=False)
    ]
    again = complete(client, told["version"])
    assert again.choices[0].text == answer.choices[0].text
    assert answer.choices[0].text != complete(client, "team/a").choices[0].text


def test_an_adapter_with_scale_zero_answers_like_the_base(client: openai.OpenAI) -> None:
    base = complete(client, "tiny").choices[0].text
    assert complete(client, "team/a*0").choices[0].text == base
    assert complete(client, "team/a").choices[0].text != base


def test_stacks_share_two_slots_and_answer_as_they_do_alone(
    serving: Serving, versions: list[AdapterVersion], make_runner: MakeRunner
) -> None:
    stacks = [((1, 0.5), (2, 1.0)), ((2, 1.0), (3, -1.0)), ((3, 2.0),), ((1, 1.0), (1, 0.5))]
    serving.start()
    try:
        inboxes = [Inbox() for _ in stacks * 3]
        for inbox, stack in zip(inboxes, stacks * 3, strict=True):
            adapters = tuple((versions[slot - 1].manifest_digest, scale) for slot, scale in stack)
            params = SamplingParams(temperature=0, max_tokens=10)
            inbox.sequence = Sequence([5, 6, 7], adapters, params, inbox.sequence.deliver)
            serving.engine.submit(inbox.sequence)
        for inbox in inboxes:
            assert inbox.last().error is None
    finally:
        serving.stop()
    runner = make_runner(Kernels.NATIVE, Quantization.INT8)
    for inbox, ((slot, scale), *stacked) in zip(inboxes, stacks * 3, strict=True):
        alone = make_sequence(
            [5, 6, 7], slot=slot, scale=scale, stacked=tuple(stacked), max_tokens=10
        )
        run_to_end(runner, [alone])
        assert inbox.sequence.output_ids == alone.output_ids

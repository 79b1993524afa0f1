"""What a request's `model` means, and why it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import (
    AdapterNotFound,
    AliasNotFound,
    HotswapError,
    InvalidReference,
    VersionNotFound,
)
from hotswap.registry.domain.manifest import BundleMetadata
from hotswap.registry.domain.prompts import PromptFormat
from hotswap.registry.registry import Registry
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.errors import BaseMismatch, NotServable, RankTooHigh
from hotswap.serving.http.app import Serving
from hotswap.serving.requests.resolver import Resolver
from tests.peft_adapters import make_adapter
from tests.serving.conftest import push_adapter


@pytest.fixture
def resolver(serving: Serving) -> Resolver:
    return serving.inference.resolver


def refusal(resolver: Resolver, model: str) -> HotswapError:
    with pytest.raises(HotswapError) as caught:
        resolver.resolve(model)
    assert caught.value.status in (400, 404, 409, 422)
    return caught.value


def push_kind(base: BaseDirectory, registry: Registry, directory: Path, **config: Any) -> None:
    push_adapter(registry, "team/a", make_adapter(base, directory, **config))


def test_the_base_answers_to_its_name_with_no_version(resolver: Resolver) -> None:
    target = resolver.resolve("tiny")
    assert (target.version, target.adapters) == (None, ())


def test_a_name_alias_number_and_digest_mean_the_same_version(
    resolver: Resolver, registry: Registry, adapter_dirs: list[Path]
) -> None:
    version = push_adapter(registry, "team/a", adapter_dirs[0])
    refs = ["team/a", "team/a@prod", "team/a:1", f"team/a@{version.manifest_digest}"]
    assert [resolver.resolve(ref).version for ref in refs] == [version] * 4


def test_the_adapter_brings_its_own_prompt_format(
    resolver: Resolver, registry: Registry, tiny_base: BaseDirectory, tmp_path: Path
) -> None:
    prompt = PromptFormat(chat_template="{{ messages[-1]['content'] }}", end_of_turn="<|im_end|>")
    metadata = BundleMetadata(base=tiny_base.fingerprint(), prompt=prompt)
    push_kind(tiny_base, registry, tmp_path / "a", metadata=metadata)
    assert resolver.resolve("team/a").prompt == prompt


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        ("team/nothing", AdapterNotFound, "'team/nothing'"),
        ("team/a@prd", AliasNotFound, "prod"),
        ("team/a:9", VersionNotFound, "9"),
        ("Team A", InvalidReference, "adapter name"),
        ("team/a@", InvalidReference, "alias"),
        ("team/a:x", InvalidReference, "version number"),
    ],
)
def test_an_unknown_name_is_refused_naming_what_was_asked(
    resolver: Resolver,
    registry: Registry,
    adapter_dirs: list[Path],
    model: str,
    kind: type[HotswapError],
    words: str,
) -> None:
    push_adapter(registry, "team/a", adapter_dirs[0])
    error = refusal(resolver, model)
    assert isinstance(error, kind)
    assert words in error.message


def test_another_base_is_refused_naming_the_field(
    resolver: Resolver, registry: Registry, tiny_base: BaseDirectory, tmp_path: Path
) -> None:
    other = tiny_base.fingerprint().model_copy(update={"weights_digest": Digest.of(b"other")})
    push_kind(tiny_base, registry, tmp_path / "a", metadata=BundleMetadata(base=other))
    error = refusal(resolver, "team/a")
    assert isinstance(error, BaseMismatch)
    assert error.fields["fields"] == ["weights_digest"]
    assert str(Digest.of(b"other")) in error.message


def test_an_adapter_that_states_no_digests_must_name_this_base(
    resolver: Resolver, registry: Registry, tiny_base: BaseDirectory, tmp_path: Path
) -> None:
    plain = make_adapter(tiny_base, tmp_path / "a", metadata=BundleMetadata())
    (plain / "hotswap.json").unlink()
    push_adapter(registry, "team/a", plain)
    assert resolver.resolve("team/a").version is not None
    config = plain / "adapter_config.json"
    config.write_text(config.read_text().replace('"tiny"', '"someone/else"'))
    push_adapter(registry, "team/b", plain)
    assert "model_id" in refusal(resolver, "team/b").message


def test_a_rank_above_the_maximum_is_refused_with_both_ranks(
    resolver: Resolver, registry: Registry, tiny_base: BaseDirectory, tmp_path: Path
) -> None:
    push_kind(tiny_base, registry, tmp_path / "a", r=9)
    error = refusal(resolver, "team/a")
    assert isinstance(error, RankTooHigh)
    assert "rank 9" in error.message
    assert "up to 8" in error.message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"bias": "lora_only"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_what_cannot_be_applied_is_refused_with_the_reason(
    resolver: Resolver,
    registry: Registry,
    tiny_base: BaseDirectory,
    tmp_path: Path,
    config: dict[str, Any],
    words: str,
) -> None:
    push_kind(tiny_base, registry, tmp_path / "a", **config)
    error = refusal(resolver, "team/a")
    assert isinstance(error, NotServable)
    assert words in error.message


def test_modules_that_the_base_does_not_have_are_refused_by_name(
    resolver: Resolver, registry: Registry, tiny_base: BaseDirectory, tmp_path: Path
) -> None:
    directory = make_adapter(tiny_base, tmp_path / "a", target_modules=["q_proj"])
    weights = directory / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({n.replace("self_attn", "cross_attn"): t for n, t in tensors.items()}, weights)
    push_adapter(registry, "team/a", directory)
    error = refusal(resolver, "team/a")
    assert isinstance(error, NotServable)
    assert "model.layers.0.cross_attn.q_proj" in error.message

"""What is refused before anything is stored, by the name of the file that is wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hotswap.registry.bundles.bundle import METADATA_FILE, Bundle
from hotswap.registry.bundles.peft_config import CONFIG_FILE, WEIGHTS_FILE, PeftConfig
from hotswap.registry.domain.errors import InvalidBundle, UnsafeFile
from hotswap.registry.domain.manifest import MAX_FILE_BYTES
from tests.refusals import refused
from tests.registry.bundles import (
    MODULE,
    PREFIX,
    lora_config,
    lora_shapes,
    make_bundle,
    safetensors_bytes,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "adapter")


def test_valid_directory_is_described(directory: Path) -> None:
    bundle = Bundle.read(directory)
    assert [f.file_name for f in bundle.files] == ["README.md", CONFIG_FILE, WEIGHTS_FILE]
    assert (bundle.lora.r, bundle.lora.modules, bundle.lora.not_servable) == (4, (MODULE,), ())


@pytest.mark.parametrize("name", ["adapter_model.bin", "state.pt", "x.PKL", "opt.ckpt"])
def test_file_that_can_hold_a_pickle_is_refused_by_name(directory: Path, name: str) -> None:
    (directory / name).write_bytes(b"")
    with refused(UnsafeFile, name):
        Bundle.read(directory)


def test_symbolic_link_is_refused_by_name(directory: Path) -> None:
    (directory / "link.json").symlink_to("/etc/passwd")
    with refused(UnsafeFile, "link.json"):
        Bundle.read(directory)


def test_directory_in_the_directory_is_refused_by_name(directory: Path) -> None:
    (directory / "inner").mkdir()
    with refused(UnsafeFile, "inner"):
        Bundle.read(directory)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with refused(InvalidBundle, name):
        Bundle.read(directory)


@pytest.mark.parametrize("kept", [0, 4, 8, 40, -1])
def test_truncated_weights_are_refused_by_name(directory: Path, kept: int) -> None:
    path = directory / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:kept])
    with refused(InvalidBundle, WEIGHTS_FILE):
        Bundle.read(directory)


@pytest.mark.parametrize("header", [b"[]", b'{"a": 1}', b'{"a": {}}', b"nope", b"[" * 100_000])
def test_malformed_header_is_refused(directory: Path, header: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header
    (directory / WEIGHTS_FILE).write_bytes(data)
    with refused(InvalidBundle, WEIGHTS_FILE):
        Bundle.read(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_malformed_config_is_refused(directory: Path, text: str) -> None:
    (directory / CONFIG_FILE).write_text(text)
    with refused(InvalidBundle, CONFIG_FILE):
        Bundle.read(directory)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"r": 8}, "has rank 4"),
        ({"peft_type": "IA3"}, "only 'LORA'"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"r": "4"}, "r: Input should be a valid integer"),
        ({"use_dora": "yes"}, "use_dora"),
        ({"target_modules": ["k_proj"]}, "names other target_modules"),
        ({"target_modules": r".*\.k_proj"}, "names other target_modules"),
        ({"rank_pattern": {"q_proj": 2}}, "says 2"),
        ({"rank_pattern": {"(?=a)b": 4}}, "rank_pattern"),
        ({"target_modules": "(q_proj"}, "target_modules"),
    ],
)
def test_config_that_does_not_fit_the_tensors_is_refused(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    with refused(InvalidBundle, words):
        Bundle.read(make_bundle(tmp_path / "a", **config))


@pytest.mark.parametrize("targets", [["q_proj"], "all-linear", r".*\.(q|v)_proj", [MODULE]])
def test_targets_are_matched_as_peft_matches_them(tmp_path: Path, targets: object) -> None:
    bundle = Bundle.read(make_bundle(tmp_path / "a", target_modules=targets))
    assert bundle.lora.modules == (MODULE,)


def test_schema_has_every_field_of_pefts() -> None:
    """What peft itself writes is accepted, and nothing of it is called unknown."""
    peft = pytest.importorskip("peft", reason="needs peft: pip install peft")
    written = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    config = json.loads(json.dumps(written.to_dict(), default=sorted))
    assert PeftConfig.check(config).unknown_fields == []
    assert {f.name for f in dataclasses.fields(peft.LoraConfig)} <= set(PeftConfig.model_fields)


def test_files_and_fields_of_no_use_are_listed(tmp_path: Path) -> None:
    directory = make_bundle(tmp_path / "a", from_the_future=True)
    (directory / "notes.txt").write_text("x")
    notes = " ".join(Bundle.read(directory).notes)
    assert "notes.txt" in notes
    assert "from_the_future" in notes
    assert "README.md" not in notes


def test_file_above_the_limit_is_refused_before_it_is_read(directory: Path) -> None:
    with (directory / "huge.txt").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # a hole: no bytes on the disk
    with refused(InvalidBundle, "huge.txt", "17179869185"):
        Bundle.read(directory)


def test_lora_a_without_lora_b_is_named(directory: Path) -> None:
    shapes = lora_shapes()
    del shapes[f"{PREFIX}{MODULE}.lora_B.weight"]
    (directory / WEIGHTS_FILE).write_bytes(safetensors_bytes(shapes))
    with refused(InvalidBundle, f"{MODULE}.lora_B"):
        Bundle.read(directory)


@pytest.mark.parametrize(
    "config", [{"lora_bias": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}]
)
def test_what_serving_cannot_apply_is_stored_with_the_reason(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    assert Bundle.read(make_bundle(tmp_path / "a", **config)).lora.not_servable


def test_a_dora_adapter_has_a_magnitude_for_each_output_of_each_module(directory: Path) -> None:
    (directory / CONFIG_FILE).write_text(json.dumps(lora_config(use_dora=True, use_rslora=True)))
    name = f"{PREFIX}{MODULE}.lora_magnitude_vector"
    for shape in (None, (7,)):
        shapes = lora_shapes() | ({name: shape} if shape else {})
        (directory / WEIGHTS_FILE).write_bytes(safetensors_bytes(shapes))
        with refused(InvalidBundle, "lora_magnitude_vector", "(8,)"):
            Bundle.read(directory)
    (directory / WEIGHTS_FILE).write_bytes(safetensors_bytes(lora_shapes() | {name: (8,)}))
    lora = Bundle.read(directory).lora
    assert (lora.kind, lora.not_servable, lora.scaling(MODULE)) == ("rsdora", (), 4.0)


def test_adapter_without_any_base_is_refused(tmp_path: Path) -> None:
    bundle = Bundle.read(make_bundle(tmp_path / "a", base_model_name_or_path=None))
    with refused(InvalidBundle, "base_model_name_or_path"):
        bundle.manifest()


def test_metadata_beside_the_tensors_goes_into_the_manifest(directory: Path) -> None:
    metadata = {"base": {"model_id": "other"}, "metrics": {"em": 0.5}, "tags": {"team": "x"}}
    (directory / METADATA_FILE).write_text(json.dumps(metadata))
    manifest = Bundle.read(directory).manifest(metrics={"f1": 0.7})
    assert manifest.base.model_id == "other"
    assert (manifest.metrics, manifest.tags) == ({"em": 0.5, "f1": 0.7}, {"team": "x"})

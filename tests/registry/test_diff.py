"""`hotswap diff`: fields, metrics, and weights compared without ever forming a full matrix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.changes import LayerChange, product_norm
from hotswap.registry.bundles.comparison import VersionComparison, compare
from hotswap.registry.bundles.peft_config import CONFIG_FILE, PEFT_PREFIX, WEIGHTS_FILE
from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.adapters import AdapterRef
from hotswap.registry.domain.manifest import Lineage
from hotswap.registry.registry import Registry
from tests.registry.bundles import lora_config, make_bundle
from tests.registry.conftest import OpenRegistry

SIZES = {"model.layers.0.self_attn.q_proj": (12, 10), "model.layers.1.mlp.down_proj": (7, 30)}
NAME = "team/sql"


@pytest.fixture
def registry(open_registry: OpenRegistry) -> Registry:
    return open_registry()


def make_weights(
    seed: int, r: int = 4, sizes: dict[str, tuple[int, int]] = SIZES
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (num_out, num_in) in sizes.items():
        tensors[f"{PEFT_PREFIX}{module}.lora_A.weight"] = torch.randn(
            r, num_in, generator=generator
        )
        tensors[f"{PEFT_PREFIX}{module}.lora_B.weight"] = torch.randn(
            num_out, r, generator=generator
        )
    return tensors


def write(directory: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    directory.mkdir()
    targets = ["q_proj", "down_proj"]
    text = json.dumps(lora_config(**{"target_modules": targets, **config}))
    (directory / CONFIG_FILE).write_text(text)
    save_file(tensors, directory / WEIGHTS_FILE)
    return directory


def push_dir(registry: Registry, directory: Path, **known: Any) -> str:
    bundle = Bundle.read(directory)
    manifest = bundle.manifest(**known)
    version = push(registry, NAME, bundle, manifest, by="ann", allow_no_effect=True)
    return str(version.ref)


def compared(registry: Registry, a: str, b: str) -> VersionComparison:
    return compare(registry, AdapterRef.parse(a), AdapterRef.parse(b))


def dense(directory: Path, module: str, scaling: float) -> np.ndarray[Any, Any]:
    """ΔW in float64, formed."""
    tensors = load_file(directory / WEIGHTS_FILE)
    a = tensors[f"{PEFT_PREFIX}{module}.lora_A.weight"].double().numpy()
    b = tensors[f"{PEFT_PREFIX}{module}.lora_B.weight"].double().numpy()
    return scaling * (b @ a)


def by_module(found: VersionComparison) -> dict[str, LayerChange]:
    return {layer.module: layer for layer in found.layers}


def test_equal_adapters_have_no_difference_at_all(registry: Registry, tmp_path: Path) -> None:
    first = push_dir(registry, write(tmp_path / "a", make_weights(1)))
    again = push_dir(registry, tmp_path / "a", metrics={"em": 0.5})
    found = compared(registry, first, again)
    assert [layer.change for layer in found.layers] == [0.0, 0.0]
    assert (found.change, found.config, found.files, found.notes) == (0.0, (), (), ())
    assert [(m.metric, m.a, m.b) for m in found.metrics] == [("em", None, 0.5)]


@pytest.mark.parametrize(
    ("config", "scalings"),
    [
        ({}, (8 / 2, 8 / 2)),
        ({"use_rslora": True}, (8 / 2**0.5, 8 / 2**0.5)),
        ({"alpha_pattern": {"down_proj": 3}}, (8 / 2, 3 / 2)),
    ],
)
def test_change_is_that_of_the_dense_products(
    registry: Registry, tmp_path: Path, config: dict[str, Any], scalings: tuple[float, float]
) -> None:
    a = write(tmp_path / "a", make_weights(1))
    b = write(tmp_path / "b", make_weights(2, 2), r=2, **config)
    found = compared(registry, push_dir(registry, a), push_dir(registry, b))
    differences, norms = [], []
    for module, scaling in zip(SIZES, scalings, strict=True):
        before, after = dense(a, module, 8 / 4), dense(b, module, scaling)
        layer = by_module(found)[module]
        norms.append(np.linalg.norm(before))
        differences.append(np.linalg.norm(after - before))
        assert layer.norm_a == pytest.approx(norms[-1], rel=1e-12)
        assert layer.norm_b == pytest.approx(np.linalg.norm(after), rel=1e-12)
        assert layer.change == pytest.approx(differences[-1] / norms[-1], rel=1e-12)
    assert found.change == pytest.approx(np.linalg.norm(differences) / np.linalg.norm(norms))
    changes = [layer.change or 0.0 for layer in found.layers]
    assert changes == sorted(changes, reverse=True)


def test_same_update_in_other_factors_is_a_rounding_error(
    registry: Registry, tmp_path: Path
) -> None:
    tensors = make_weights(1)
    turned = {n: t * (4 if ".lora_A." in n else 0.25) for n, t in tensors.items()}
    first = push_dir(registry, write(tmp_path / "a", tensors))
    second = push_dir(registry, write(tmp_path / "b", turned))
    found = compared(registry, first, second)
    assert found.change is not None
    assert 0 <= found.change < 1e-14


def test_small_change_is_not_lost_in_rounding(registry: Registry, tmp_path: Path) -> None:
    tensors = make_weights(1)
    factor = 1 + 2.0**-20
    nudged = {n: t * factor if ".lora_B." in n else t for n, t in tensors.items()}
    first = push_dir(registry, write(tmp_path / "a", tensors))
    second = push_dir(registry, write(tmp_path / "b", nudged))
    layers = compared(registry, first, second).layers
    assert [layer.change for layer in layers] == pytest.approx([2.0**-20] * 2, rel=0.1)


def test_layers_that_one_version_lacks_are_told_apart(registry: Registry, tmp_path: Path) -> None:
    q_proj, down_proj = SIZES
    one, both = make_weights(1, sizes={q_proj: SIZES[q_proj]}), make_weights(1)
    first = push_dir(registry, write(tmp_path / "a", one, target_modules=["q_proj"]))
    second = push_dir(registry, write(tmp_path / "b", both))
    new = compared(registry, first, second)
    assert (new.layers[0].module, new.layers[0].norm_a, new.layers[0].change) == (
        down_proj,
        None,
        None,
    )
    assert new.layers[0].difference == new.layers[0].norm_b
    gone = by_module(compared(registry, second, first))[down_proj]
    assert (gone.norm_b, gone.change) == (None, 1.0)
    (modules,) = [change for change in new.config if change.field == "lora.modules"]
    assert (modules.a, modules.b) == ([], [down_proj])


def test_change_from_an_untrained_adapter_has_no_figure(registry: Registry, tmp_path: Path) -> None:
    zero = {n: t * (0 if ".lora_B." in n else 1) for n, t in make_weights(1).items()}
    first = push_dir(registry, write(tmp_path / "a", zero))
    second = push_dir(registry, write(tmp_path / "b", make_weights(2)))
    found = compared(registry, first, second)
    assert [(layer.norm_a, layer.change) for layer in found.layers] == [(0.0, None)] * 2
    assert found.change is None
    assert compared(registry, first, first).change == 0.0


def test_layers_of_other_shapes_are_not_subtracted(registry: Registry, tmp_path: Path) -> None:
    q_proj, _ = SIZES
    small = make_weights(1, sizes={q_proj: (6, 10)})
    large = make_weights(1, sizes={q_proj: (12, 10)})
    config: dict[str, Any] = {"target_modules": ["q_proj"]}
    first = push_dir(registry, write(tmp_path / "a", small, **config))
    config["base_model_name_or_path"] = "other"
    second = push_dir(registry, write(tmp_path / "b", large, **config))
    found = compared(registry, first, second)
    (layer,) = found.layers
    assert (layer.difference, layer.change, found.change) == (None, None, None)
    assert found.notes == ("the versions belong to different bases; they differ in model_id",)


def test_dora_is_said_to_be_compared_in_part(registry: Registry, tmp_path: Path) -> None:
    tensors = make_weights(1)
    for module, (num_out, _) in SIZES.items():
        tensors[f"{PEFT_PREFIX}{module}.lora_magnitude_vector"] = torch.ones(num_out)
    first = push_dir(registry, write(tmp_path / "a", make_weights(1)))
    second = push_dir(registry, write(tmp_path / "b", tensors, use_dora=True))
    found = compared(registry, first, second)
    assert found.change == 0.0
    (note,) = found.notes
    assert note.startswith("B is a DoRA adapter")


def test_fields_that_differ_are_listed_by_section(registry: Registry, tmp_path: Path) -> None:
    directory = write(tmp_path / "a", make_weights(1))
    first = push_dir(registry, directory, metrics={"em": 0.5, "f1": 1}, tags={"team": "x"})
    again = push_dir(
        registry,
        directory,
        metrics={"em": 0.75, "f1": 1},
        description="dates",
        lineage=Lineage(run="r2"),
    )
    found = compared(registry, first, again)
    assert [(m.metric, m.difference) for m in found.metrics] == [("em", 0.25)]
    assert [(c.field, c.a, c.b) for c in found.data] == [("lineage.run", None, "r2")]
    assert [(c.field, c.a, c.b) for c in found.about] == [
        ("description", "", "dates"),
        ("tags.team", "x", None),
    ]


@pytest.mark.parametrize(
    ("num_out", "r", "num_in"), [(5, 9, 3), (1100, 8, 2500), (300, 90, 400), (1, 1, 1)]
)
def test_norm_of_a_product_is_that_of_the_formed_one(num_out: int, r: int, num_in: int) -> None:
    chance = np.random.default_rng(0)
    left, right = chance.normal(size=(num_out, r)), chance.normal(size=(r, num_in))
    assert product_norm(left, right) == pytest.approx(np.linalg.norm(left @ right), rel=1e-12)


def test_bundles_of_the_other_tests_compare_too(registry: Registry, tmp_path: Path) -> None:
    refs = [push_dir(registry, make_bundle(tmp_path / f"{seed}", seed)) for seed in (1, 2)]
    assert (compared(registry, *refs).change or 0) > 0.1

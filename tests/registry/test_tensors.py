"""The values of an adapter's weights: finite, of a known type, and with an effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.peft_config import WEIGHTS_FILE
from hotswap.registry.bundles.tensors import has_effect, read_tensors
from hotswap.registry.bundles.transfer import push
from hotswap.registry.domain.errors import InvalidBundle
from hotswap.registry.registry import Registry
from tests.refusals import refused
from tests.registry.bundles import MODULE, PREFIX, make_bundle
from tests.registry.conftest import OpenRegistry

A, B = f"{PREFIX}{MODULE}.lora_A.weight", f"{PREFIX}{MODULE}.lora_B.weight"


def with_weights(directory: Path, **changes: torch.Tensor) -> Path:
    """A bundle whose A and B are replaced."""
    make_bundle(directory)
    tensors = {A: torch.ones(4, 8), B: torch.ones(8, 4)}
    tensors |= {{"a": A, "b": B}[name]: value for name, value in changes.items()}
    save_file(tensors, directory / WEIGHTS_FILE)
    return directory


@pytest.fixture
def registry(open_registry: OpenRegistry) -> Registry:
    return open_registry()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_every_type_are_read_as_torch_reads_them(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    tensors = {"x": torch.randn(3, 5).to(dtype), "y": torch.randn(7).to(dtype)}
    save_file(tensors, tmp_path / "w.safetensors")
    found = dict(read_tensors(tmp_path / "w.safetensors"))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.float().numpy())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused_by_tensor(tmp_path: Path, value: float) -> None:
    b = torch.ones(8, 4)
    b[3, 2] = value
    with refused(InvalidBundle, "q_proj.lora_B.weight"):
        Bundle.read(with_weights(tmp_path / "a", b=b))


def test_another_type_is_refused_by_name(tmp_path: Path) -> None:
    b = torch.ones(8, 4, dtype=torch.float64)
    with refused(InvalidBundle, "F64"):
        Bundle.read(with_weights(tmp_path / "a", b=b))


@pytest.mark.parametrize(
    ("a", "b", "effect"),
    [
        (torch.ones(4, 8), torch.ones(8, 4), True),
        (torch.ones(4, 8), torch.zeros(8, 4), False),
        (torch.zeros(4, 8), torch.ones(8, 4), False),
        # Neither factor is zero, but every product of theirs is.
        (torch.eye(4, 8)[:4] * torch.tensor([[1.0], [0], [0], [0]]),
         torch.eye(8, 4) * torch.tensor([0.0, 1, 1, 1]), False),
    ],
)  # fmt: skip
def test_an_adapter_has_an_effect_when_some_product_is_not_zero(
    tmp_path: Path, a: torch.Tensor, b: torch.Tensor, effect: bool
) -> None:
    directory = with_weights(tmp_path / "a", a=a, b=b)
    assert has_effect(directory / WEIGHTS_FILE) is effect


def test_an_adapter_without_effect_is_pushed_only_when_that_is_allowed(
    registry: Registry, tmp_path: Path
) -> None:
    bundle = Bundle.read(with_weights(tmp_path / "a", b=torch.zeros(8, 4)))
    with refused(InvalidBundle, "--allow-no-effect"):
        push(registry, "team/a", bundle, bundle.manifest(), by="tests")
    assert registry.adapters.all() == []
    push(registry, "team/a", bundle, bundle.manifest(), by="tests", allow_no_effect=True)
    assert [summary.name for summary in registry.adapters.all()] == ["team/a"]

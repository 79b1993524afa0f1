"""How far two adapters' weights are apart, layer by layer, by low-rank algebra.

ΔW = scaling·B·A is never formed: with B = Q₁R₁ and Aᵀ = Q₂R₂ the Frobenius norm of B·A is that of
R₁R₂ᵀ, a matrix of r rows. The difference of two updates is such a product too, of the stacked
factors. Computed in float64: the rounding error is about 1e-16 of the larger update.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from hotswap.registry.bundles.peft_config import PEFT_PREFIX
from hotswap.registry.bundles.tensors import TensorFile
from hotswap.registry.domain.manifest import LoraShape
from hotswap.registry.domain.values import ValueObject

_A, _B = ".lora_A.weight", ".lora_B.weight"
Matrix = NDArray[np.float64]
Factors = tuple[Matrix, Matrix]  # scaling·B (out, r), A (r, in)
_BLOCK_ROWS = 256


class LayerChange(ValueObject):
    """One module's ΔW in two versions. A norm is None where the version does not adapt it.

    `difference` is ‖ΔW_B − ΔW_A‖ and `change` the same over ‖ΔW_A‖: None where nothing can be
    said, because ΔW_A is zero or absent, or the matrices have other shapes.
    """

    module: str
    norm_a: float | None
    norm_b: float | None
    difference: float | None
    change: float | None


class AdapterWeights:
    """The LoRA factors in a verified weights file. Close it after use."""

    def __init__(self, path: Path, shape: LoraShape) -> None:
        self._shape = shape
        self._file = TensorFile(path)
        stems = [n.removesuffix(_A) for n in self._file.names if n.endswith(_A)]
        self._stems = {stem.removeprefix(PEFT_PREFIX): stem for stem in stems}

    @property
    def modules(self) -> set[str]:
        return set(self._stems)

    @property
    def other_tensors(self) -> list[str]:
        """The names of the tensors that are no factors; they are not compared."""
        return [name for name in self._file.names if not name.endswith((_A, _B))]

    def factors(self, module: str) -> Factors | None:
        if (stem := self._stems.get(module)) is None:
            return None
        b = self._file.read(stem + _B).astype(np.float64)
        return b * self._shape.scaling(module), self._file.read(stem + _A).astype(np.float64)

    def __enter__(self) -> AdapterWeights:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)


def layer_changes(a: AdapterWeights, b: AdapterWeights) -> list[LayerChange]:
    """Every module of either, the largest change first, those without a figure before them."""
    changes = [
        _change(module, a.factors(module), b.factors(module)) for module in a.modules | b.modules
    ]
    return sorted(changes, key=lambda c: (-math.inf if c.change is None else -c.change, c.module))


def total_change(layers: list[LayerChange]) -> float | None:
    """All layers as one vector; None when a layer has no difference, or A is zero."""
    if any(layer.difference is None for layer in layers):
        return None
    before = math.hypot(*(layer.norm_a or 0.0 for layer in layers))
    return _ratio(math.hypot(*(layer.difference or 0.0 for layer in layers)), before)


def _change(module: str, a: Factors | None, b: Factors | None) -> LayerChange:
    norm_a, norm_b, difference = _norms(a, b)
    return LayerChange(
        module=module,
        norm_a=norm_a,
        norm_b=norm_b,
        difference=difference,
        change=None if difference is None else _ratio(difference, norm_a or 0.0),
    )


def _norms(a: Factors | None, b: Factors | None) -> tuple[float | None, float | None, float | None]:
    """‖ΔW_A‖, ‖ΔW_B‖ and ‖ΔW_B − ΔW_A‖, the last exactly 0 for equal factors."""
    if a is None or b is None:
        norm_a, norm_b = (None if x is None else product_norm(*x) for x in (a, b))
        return norm_a, norm_b, norm_b if a is None else norm_a
    if (a[0].shape[0], a[1].shape[1]) != (b[0].shape[0], b[1].shape[1]):
        return product_norm(*a), product_norm(*b), None
    # One common Q on each side: a norm is that of what is left between them, (2r, 2r) at most.
    left, right = _triangle(np.hstack([a[0], b[0]])), _triangle(np.vstack([a[1], b[1]]).T)
    r = a[1].shape[0]
    small_a, small_b = left[:, :r] @ right[:, :r].T, left[:, r:] @ right[:, r:].T
    equal = _equal(a[0], b[0]) and _equal(a[1], b[1])
    return _norm(small_a), _norm(small_b), 0.0 if equal else _norm(small_b - small_a)


def product_norm(left: Matrix, right: Matrix) -> float:
    """The Frobenius norm of left (out, r) · right (r, in)."""
    return _norm(_triangle(left) @ _triangle(right.T).T)


def _triangle(tall: Matrix) -> Matrix:
    """R of the QR factorization, of blocks of rows first: five times as fast, because a block
    stays in the cache (14,336 × 32: 4.6 ms, at once 22 ms)."""
    num_rows = max(_BLOCK_ROWS, 4 * tall.shape[1])
    while len(tall) > num_rows:
        num_blocks = len(tall) // num_rows
        blocks = tall[: num_blocks * num_rows].reshape(num_blocks, num_rows, -1)
        parts = _r_of(blocks).reshape(-1, tall.shape[1])
        tall = np.concatenate([parts, tall[num_blocks * num_rows :]])
    return _r_of(tall)


def _r_of(matrices: Matrix) -> Matrix:
    return cast(Matrix, np.linalg.qr(matrices, mode="r"))  # numpy's stubs know only Q with R


def _norm(matrix: Matrix) -> float:
    return float(np.linalg.norm(matrix))


def _equal(one: Matrix, other: Matrix) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _ratio(difference: float, before: float) -> float | None:
    if difference == 0:
        return 0.0
    return difference / before if before > 0 else None

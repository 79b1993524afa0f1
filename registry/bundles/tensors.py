"""Reads the tensors of a safetensors file with numpy, one at a time, and looks at their values."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotswap.registry.domain.errors import InvalidBundle

Array = NDArray[np.float32]
_DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class TensorFile:
    """The tensors of a safetensors file, read when they are asked for; its header must have been
    checked. Close it after use."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._file = path.open("rb")
        (length,) = struct.unpack("<Q", self._file.read(8))
        header: dict[str, Any] = json.loads(self._file.read(length))
        header.pop("__metadata__", None)
        self._header = header
        self._start = 8 + length

    @property
    def names(self) -> list[str]:
        return sorted(self._header)

    def read(self, name: str) -> Array:
        """The tensor in float32; raises InvalidBundle for a type other than F32, F16 and BF16."""
        about = self._header[name]
        if about["dtype"] not in _DTYPES:
            raise InvalidBundle(
                f"{self._name}: {name} is of type {about['dtype']}; save it as one of "
                + ", ".join(_DTYPES)
            )
        start, end = about["data_offsets"]
        self._file.seek(self._start + start)
        values = np.frombuffer(self._file.read(end - start), _DTYPES[about["dtype"]])
        return _widened(values, about["dtype"]).reshape(about["shape"])

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_tensors(path: Path) -> Iterator[tuple[str, Array]]:
    """Every tensor in order of name; raises as TensorFile.read."""
    with TensorFile(path) as file:
        for name in file.names:
            yield name, file.read(name)


def has_effect(path: Path) -> bool:
    """Whether any module's B·A is not zero; raises InvalidBundle for a NaN or infinite value.

    ‖B·A‖² is the trace of (Bᵀ·B)·(A·Aᵀ), of which both factors are only (r, r).
    """
    waiting: dict[str, Array] = {}
    has_any = False
    for name, values in read_tensors(path):
        if not np.isfinite(values).all():
            raise InvalidBundle(
                f"{path.name}: {name} holds NaN or infinite values; the training diverged"
            )
        stem, _, part = name.rpartition(".lora_")
        if part == "A.weight":
            waiting[stem] = values
        elif part == "B.weight" and stem in waiting:
            a = waiting.pop(stem).astype(np.float64)
            b = values.astype(np.float64)
            has_any = has_any or float(((b.T @ b) * (a @ a.T)).sum()) > 0
    return has_any


def _widened(values: NDArray[Any], dtype: str) -> Array:
    if dtype == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)

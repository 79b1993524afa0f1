"""The header of a safetensors file, and JSON from a pusher, with bounds that hold before anything
is computed from them."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hotswap.registry.domain.errors import InvalidBundle

MAX_HEADER_BYTES = 8 << 20
MAX_JSON_BYTES = 1 << 20
"""Of adapter_config.json and hotswap.json."""
MAX_TENSORS = 100_000
MAX_NAME_LENGTH = 512
MAX_DIMENSIONS = 8
MAX_DIGITS = 19
"""Of a whole number: what 64 bits hold."""

# Bits of one value by dtype, as safetensors 0.8 names them.
_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
# What JSON of another form than expected raises on the way to the values.
_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)


def read_tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name → shape of a safetensors file; raises InvalidBundle."""
    with path.open("rb") as file:
        return parse_tensor_shapes(file.read, path.stat().st_size, path.name)


def parse_tensor_shapes(
    read: Callable[[int], bytes], size_bytes: int, file_name: str
) -> dict[str, tuple[int, ...]]:
    """Tensor name → shape from a safetensors header (8 bytes of length, then JSON).

    `read(n)` gives the next n bytes of the file. Raises InvalidBundle when the header is
    malformed, disagrees with the file's size, or describes what safetensors itself does not load.
    """
    prefix = read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
        raise InvalidBundle(
            f"{file_name} is not a safetensors file: its header has {length} bytes, of at most "
            f"{MAX_HEADER_BYTES}, in a file of {size_bytes}"
        )
    try:
        header = _loaded(read(length))
        tensors = {n: _Tensor(n, t) for n, t in header.items() if n != "__metadata__"}
        if len(tensors) > MAX_TENSORS:
            raise ValueError(f"it names {len(tensors)} tensors, of at most {MAX_TENSORS}")
        end = _end_of(tensors)
    except _MALFORMED as error:
        raise InvalidBundle(f"{file_name} is not a safetensors file: {error}") from None
    if 8 + length + end != size_bytes:
        raise InvalidBundle(
            f"{file_name} is {size_bytes} bytes long but its header describes {8 + length + end};"
            " the file is cut short or damaged"
        )
    return {name: tensor.shape for name, tensor in tensors.items()}


def parse_object(data: bytes, file_name: str) -> dict[str, Any]:
    """The JSON object in `data`; raises InvalidBundle when it is something else."""
    try:
        if len(data) > MAX_JSON_BYTES:
            raise ValueError(f"it has {len(data)} bytes, of at most {MAX_JSON_BYTES}")
        value = _loaded(data)
    except _MALFORMED as error:
        raise InvalidBundle(f"{file_name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidBundle(f"{file_name} holds {type(value).__name__}, expected a JSON object")
    return value


class _Tensor:
    """One entry of a header; raises what `_MALFORMED` names."""

    def __init__(self, name: str, entry: dict[str, Any]) -> None:
        if len(name) > MAX_NAME_LENGTH:
            raise ValueError(f"{name[:80]!r}… has {len(name)} characters, of {MAX_NAME_LENGTH}")
        shape = entry["shape"]
        if len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"{name!r} has {len(shape)} dimensions, of at most {MAX_DIMENSIONS}")
        self.name = name
        self.shape = tuple(_size(name, size) for size in shape)
        self.begin, self.end = (_size(name, offset) for offset in entry["data_offsets"])
        num_bits = math.prod(self.shape) * _BITS[entry["dtype"]]
        if num_bits != 8 * (self.end - self.begin):
            raise ValueError(
                f"{name!r} of shape {self.shape} and {entry['dtype']} takes {num_bits / 8:g} "
                f"bytes, and has {self.end - self.begin}"
            )


def _end_of(tensors: dict[str, _Tensor]) -> int:
    """Where the last tensor ends; safetensors loads no file with a gap or an overlap."""
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != end:
            raise ValueError(f"{tensor.name!r} begins at {tensor.begin}, expected {end}")
        end = tensor.end
    return end


def _size(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name!r} has {value!r} for a size")
    return value


def _loaded(data: bytes) -> Any:
    return json.loads(data, parse_int=_whole)


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits, of at most {MAX_DIGITS}")
    return int(digits)

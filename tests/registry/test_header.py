"""What a pusher's header and configuration may make the reader compute is bounded beforehand."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.header import (
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    MAX_JSON_BYTES,
    MAX_NAME_LENGTH,
    parse_object,
    parse_tensor_shapes,
)
from hotswap.registry.bundles.peft_config import CONFIG_FILE, WEIGHTS_FILE
from hotswap.registry.domain.errors import InvalidBundle
from tests.refusals import refused
from tests.registry.bundles import make_bundle

CPU_S, MEMORY_BYTES = 20, 256 << 20


def file_of(header: Any, num_bytes: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(num_bytes)


def shapes_of(data: bytes) -> dict[str, tuple[int, ...]]:
    return parse_tensor_shapes(BytesIO(data).read, len(data), WEIGHTS_FILE)


def tensor(shape: Any, begin: Any, end: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE: dict[str, Callable[[], bytes]] = {
    "dimensions of many digits": lambda: file_of(
        b'{"a":{"dtype":"F32","shape":['
        + b",".join([b"9" * 4001] * 2000)
        + b'],"data_offsets":[0,4]}}'
    ),
    "many dimensions": lambda: file_of({"a": tensor([2**62] * 2000, 0, 4)}, 4),
    "a dimension beyond 64 bits": lambda: file_of({"a": tensor([2**64], 0, 4)}, 4),
    "a negative dimension": lambda: file_of({"a": tensor([-1], 0, 4)}, 4),
    "a fraction": lambda: file_of({"a": tensor([1.5], 0, 6)}, 6),
    "a text for a number": lambda: file_of({"a": tensor(["1"], 0, 4)}, 4),
    "true for a number": lambda: file_of({"a": tensor([True], 0, 4)}, 4),
    "a long name": lambda: file_of({"a" * (MAX_NAME_LENGTH + 1): tensor([1], 0, 4)}, 4),
    "deep JSON": lambda: file_of(b"[" * 1_000_000),
    "deep objects": lambda: file_of(b'{"a":' * 300_000),
    "many empty lists": lambda: file_of(b'{"a":[' + b"[]," * 2_000_000 + b"[]]}"),
    "many tensors": lambda: file_of(
        b"{" + b",".join(b'"%d":{}' % i for i in range(400_000)) + b"}"
    ),
    "a gap": lambda: file_of({"a": tensor([1], 4, 8)}, 8),
    "an overlap": lambda: file_of({"a": tensor([2], 0, 8), "b": tensor([1], 4, 8)}, 8),
    "another size than its shape": lambda: file_of({"a": tensor([3], 0, 8)}, 8),
    "an unknown dtype": lambda: file_of({"a": tensor([1], 0, 4, "F31")}, 4),
    "a header of the limit": lambda: file_of(b'{"a":"' + b"x" * MAX_HEADER_BYTES + b'"}'),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_is_refused_within_its_limits(kind: str, tmp_path: Path) -> None:
    """In a process that may use 256 MB more than it has, and a bounded time of the processor."""
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(HOSTILE[kind]())
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from hotswap.registry.bundles.header import read_tensor_shapes\n"
        "from hotswap.registry.domain.errors import InvalidBundle\n"
        "size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (size + {MEMORY_BYTES},) * 2)\n"
        f"resource.setrlimit(resource.RLIMIT_CPU, ({CPU_S},) * 2)\n"
        "try:\n"
        "    read_tensor_shapes(Path(sys.argv[1]))\n"
        "except InvalidBundle as error:\n"
        "    assert len(error.message) < 2000, len(error.message)\n"
        "    sys.exit(42)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 42


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
TENSORS = st.dictionaries(
    st.text(max_size=12),
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["F32", "BF16", "F4", "X"]) | JSON,
            "shape": st.lists(st.integers(-1, 2**70), max_size=MAX_DIMENSIONS + 2) | JSON,
            "data_offsets": st.lists(st.integers(-1, 64), min_size=2, max_size=2) | JSON,
        },
    )
    | JSON,
    max_size=4,
)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(TENSORS, st.integers(0, 64))
def test_what_is_accepted_is_what_safetensors_loads(
    tmp_path_factory: pytest.TempPathFactory, header: Any, num_bytes: int
) -> None:
    data = file_of(header, num_bytes)
    try:
        shapes = shapes_of(data)
    except InvalidBundle:
        return
    path = tmp_path_factory.mktemp("accepted") / WEIGHTS_FILE
    path.write_bytes(data)
    with safe_open(path, "numpy") as opened:
        assert set(opened.keys()) == set(shapes)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (
        lambda: shapes_of(data),
        lambda: shapes_of(file_of(data)),
        lambda: config_of(data),
    ):
        try:
            read()
        except InvalidBundle:
            continue


def config_of(data: bytes) -> dict[str, Any]:
    return parse_object(data, CONFIG_FILE)


def test_safetensors_refuses_gaps_as_we_do(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(HOSTILE["a gap"]())
    with pytest.raises(SafetensorError):
        safe_open(path, "numpy")


@pytest.mark.parametrize("data", [b"[" * 500_000, b'{"r":' + b"9" * 5000 + b"}", b'{"r": 1e999}'])
def test_a_hostile_configuration_is_one_error(tmp_path: Path, data: bytes) -> None:
    bundle = make_bundle(tmp_path / "a")
    (bundle / CONFIG_FILE).write_bytes(data)
    with refused(InvalidBundle, CONFIG_FILE):
        Bundle.read(bundle)


def test_a_configuration_beyond_its_size_is_never_read_whole(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "a")
    with (bundle / CONFIG_FILE).open("wb") as file:
        file.truncate(1 << 34)  # a hole
    with refused(InvalidBundle, CONFIG_FILE, MAX_JSON_BYTES):
        Bundle.read(bundle)


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_thousand_keys_for_a_thousand_modules_are_refused(tmp_path: Path, field: str) -> None:
    modules = [f"model.layers.{i}.q_proj" for i in range(1500)]
    keys = {f"(?:x{i}|y)+": 4 for i in range(2000)}
    bundle = make_bundle(tmp_path / "a", **{field: keys})
    header = {}
    for i, module in enumerate(modules):
        header[f"base_model.model.{module}.lora_A.weight"] = tensor([4, 1], 32 * i, 32 * i + 16)
        header[f"base_model.model.{module}.lora_B.weight"] = tensor(
            [1, 4], 32 * i + 16, 32 * i + 32
        )
    (bundle / WEIGHTS_FILE).write_bytes(file_of(header, 32 * len(modules)))
    with refused(InvalidBundle, CONFIG_FILE, field="rank_pattern"):
        Bundle.read(bundle)


def test_one_expression_as_unsloth_writes_it_is_read(tmp_path: Path) -> None:
    blocks = "|".join(("self_attn", "attention", "attn", "mlp", "feed_forward", "ffn", "dense"))
    names = "|".join(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
    wanted = (
        rf"(?:.*?(?:vision|image|visual|patch|language|text|model).*?(?:layers|h)\.[\d]{{1,}}\."
        rf"(?:{blocks})\.(?:{names}))|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{blocks})\.(?:(?:{names})))"
    )
    assert len(wanted) > 277
    Bundle.read(make_bundle(tmp_path / "a", target_modules=wanted))

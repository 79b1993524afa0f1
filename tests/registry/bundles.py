"""Makes tiny valid PEFT directories, without torch."""

from __future__ import annotations

import json
import math
import random
import struct
from array import array
from pathlib import Path
from typing import Any

from hotswap.registry.bundles.bundle import Bundle
from hotswap.registry.bundles.peft_config import CONFIG_FILE, WEIGHTS_FILE
from hotswap.registry.domain.manifest import Manifest

MODULE = "model.layers.0.self_attn.q_proj"
PREFIX = "base_model.model."


def lora_shapes(
    modules: tuple[str, ...] = (MODULE,), r: int = 4, size: int = 8
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for module in modules:
        shapes[f"{PREFIX}{module}.lora_A.weight"] = (r, size)
        shapes[f"{PREFIX}{module}.lora_B.weight"] = (size, r)
    return shapes


def safetensors_bytes(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> bytes:
    """A safetensors file of F32 tensors with random values between -1 and 1."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size_bytes = 4 * math.prod(shape)
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [offset, offset + size_bytes],
        }
        offset += size_bytes
    text = json.dumps(header).encode()
    chance = random.Random(seed)
    values = array("f", (chance.uniform(-1, 1) for _ in range(offset // 4)))
    return struct.pack("<Q", len(text)) + text + values.tobytes()


def lora_config(**changes: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": "tiny",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "target_modules": ["q_proj"],
        **changes,
    }


def make_bundle(directory: Path, seed: int = 0, *, size: int = 8, **config: Any) -> Path:
    """Write a PEFT directory; `seed` decides its weights, `size` the width of its matrices."""
    directory.mkdir(parents=True)
    (directory / CONFIG_FILE).write_text(json.dumps(lora_config(**config)))
    weights = safetensors_bytes(lora_shapes(size=size), seed)
    (directory / WEIGHTS_FILE).write_bytes(weights)
    (directory / "README.md").write_text(f"# Adapter {seed}\n")
    return directory


def read_bundle(directory: Path, seed: int = 0, **config: Any) -> tuple[Bundle, Manifest]:
    bundle = Bundle.read(make_bundle(directory, seed, **config))
    return bundle, bundle.manifest()


def file_bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}

"""The base and the adapters in the forms that the peers read."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
from gguf.quants import dequantize, quantize

from benchmarks.workload import BASE
from hotswap.registry.bundles.bundle import Bundle
from hotswap.serving.adapters.export import export_gguf
from hotswap.serving.base_model import BUILT_IN_BASES, BaseDirectory, _package_file


def gguf_adapters(base: BaseDirectory, directories: Sequence[Path]) -> list[Path]:
    """What `hotswap export` writes."""
    files = [directory.with_suffix(".gguf") for directory in directories]
    for directory, file in zip(directories, files, strict=True):
        export_gguf(directory, Bundle.read(directory).lora, base, file)
    return files


def q4_0_base(out: Path) -> Path:
    """The built-in base's GGUF file with all matrices in Q4_0, the embeddings (and so the head)
    in Q8_0; made once."""
    if out.exists():
        return out
    source = _package_file(BUILT_IN_BASES[BASE])
    assert source is not None, f"install {BUILT_IN_BASES[BASE].requirement}"
    reader = gguf.GGUFReader(source)
    field = reader.get_field("general.architecture")
    assert field is not None
    temporary = out.with_suffix(".part")
    writer = gguf.GGUFWriter(temporary, field.contents())
    for key, value in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            inner = value.types[-1] if value.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, value.contents(), value.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values: Any = dequantize(tensor.data, tensor.tensor_type)
        if len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, values)
            continue
        is_embedding = tensor.name.startswith("token_embd")
        kind = gguf.GGMLQuantizationType.Q8_0 if is_embedding else gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(tensor.name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.rename(out)
    return out


def openvino_base(base: BaseDirectory, folder: Path, out: Path) -> Path:
    """The base with int8 weights, converted once by optimum in OpenVINO's environment."""
    if not out.exists():
        command = [
            folder / "bin" / "optimum-cli", "export", "openvino", "--model", base.path,
            "--task", "text-generation-with-past", "--weight-format", "int8", out,
        ]  # fmt: skip
        with (folder / "convert.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log)
    return out

"""Writes an adapter for other engines: a GGUF LoRA for llama.cpp, or the base with it merged in.

Needs the base model, unlike `hotswap pull`, which gives back the PEFT directory as it was pushed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hotswap.registry.bundles.peft_config import CONFIG_FILE, PEFT_PREFIX, WEIGHTS_FILE
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.manifest import LoraShape, Manifest
from hotswap.registry.durable import new_directory, new_file
from hotswap.serving.adapters.lora import LoraWeights, dora_factor, read_lora_weights
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.errors import BaseMismatch, NotServable

# llama.cpp stores the rows of q and k of these families in the order its rotary kernel reads.
_GGUF_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_PERMUTED_FAMILIES = frozenset({"llama", "mistral"})


def check_exportable(manifest: Manifest, base: BaseDirectory) -> None:
    """Raises BaseMismatch for another base than the adapter's, NotServable for another kind."""
    differing = manifest.base.mismatches(base.fingerprint())
    if differing:
        raise BaseMismatch(
            f"the adapter belongs to base {manifest.base.model_id!r}; {base.model_id!r} differs in "
            + ", ".join(differing),
            fields=differing,
        )
    if manifest.lora.not_servable:
        raise NotServable(
            "the adapter cannot be exported: " + "; ".join(manifest.lora.not_servable)
        )


def export_gguf(directory: Path, shape: LoraShape, base: BaseDirectory, out: Path) -> None:
    """Write `out`, a GGUF file of `adapter.type` lora, from a PEFT directory.

    llama.cpp scales by alpha / r; what an adapter's own scaling differs by goes into its B.
    """
    import gguf

    if shape.is_dora:
        raise NotServable(
            "llama.cpp does not apply DoRA adapters; export it merged into the base instead"
        )
    family = str(base.config["model_type"])
    if family not in _GGUF_FAMILIES:
        raise NotServable(
            f"a base of type {family!r} is not exported to GGUF, but {', '.join(_GGUF_FAMILIES)} "
            "are; export the adapter merged into the base instead"
        )
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[family.upper()] if family != "mistral" else gguf.MODEL_ARCH.LLAMA,
        base.config["num_hidden_layers"],
    )
    with _refused_if_taken(out, "file"), new_file(out) as part:
        writer = gguf.GGUFWriter(part, "llama" if family == "mistral" else family)
        writer.add_type("adapter")
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(shape.lora_alpha))
        with safe_open(directory / WEIGHTS_FILE, framework="pt") as tensors:
            for module in shape.modules:
                a = tensors.get_tensor(f"{PEFT_PREFIX}{module}.lora_A.weight").float()
                b = tensors.get_tensor(f"{PEFT_PREFIX}{module}.lora_B.weight").float()
                b = b * (shape.scaling(module) * a.shape[0] / shape.lora_alpha)
                name = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
                if name is None:
                    raise NotServable(f"llama.cpp has no name for the module {module}")
                if family in _PERMUTED_FAMILIES:
                    b = _permuted(module, b, base.config)
                writer.add_tensor(f"{name}.lora_a", a.contiguous().numpy())
                writer.add_tensor(f"{name}.lora_b", b.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def export_merged(
    directory: Path,
    shape: LoraShape,
    base: BaseDirectory,
    out: Path,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write `out`, a model directory like the base's with W + B·A·scaling in place of W, for a
    DoRA adapter scaled to its magnitudes.

    The weights keep the base's type, so each is rounded once. `provenance` says which version they
    hold, in a file beside them.
    """
    adapter = read_lora_weights(directory, shape)
    if json.loads((directory / CONFIG_FILE).read_text()).get("fan_in_fan_out"):
        adapter = _transposed(adapter)
    with _refused_if_taken(out, "directory"), new_directory(out) as work:
        for path in base.path.iterdir():
            if path.suffix in {".json", ".jinja"} and "index" not in path.name:
                shutil.copyfile(path, work / path.name)
        merged: dict[str, Tensor] = {}
        for file in base.weight_files:
            with safe_open(file, framework="pt") as weights:
                stored: Any = weights
                for name in stored.keys():  # noqa: SIM118
                    merged[name] = _merged(stored.get_tensor(name), name, adapter)
        if missing := sorted(
            set(adapter.modules) - {name.removesuffix(".weight") for name in merged}
        ):
            raise NotServable(
                f"the base's weight files name no layer {missing[0]!r}, which the adapter changes"
            )
        save_file(merged, work / "model.safetensors", metadata={"format": "pt"})
        if provenance is not None:
            text = json.dumps(provenance, indent=2)
            (work / "hotswap-merged.json").write_text(text + "\n")


def _transposed(adapter: LoraWeights) -> LoraWeights:
    """For a base whose weights are stored as (in, out), as GPT-2's are: W + Aᵀ·Bᵀ."""
    if adapter.magnitudes:
        raise NotServable("a DoRA adapter of transposed layers is not merged")
    modules = {module: (b.T, a.T.float()) for module, (a, b) in adapter.modules.items()}
    return LoraWeights(modules, adapter.probes)


def _merged(weight: Tensor, name: str, adapter: LoraWeights) -> Tensor:
    module = name.removesuffix(".weight")
    if module not in adapter.modules:
        return weight
    a, b = adapter.modules[module]
    merged = weight.float() + b @ a.float()
    if module in adapter.magnitudes:
        merged *= dora_factor(weight, a, b, adapter.magnitudes[module])[:, None]
    return merged.to(weight.dtype)


def _permuted(module: str, b: Tensor, config: dict[str, Any]) -> Tensor:
    """B (out, r) of a q or k projection with each head's halves interleaved."""
    if module.endswith("q_proj"):
        num_heads = config["num_attention_heads"]
    elif module.endswith("k_proj"):
        num_heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    else:
        return b
    halves = b.reshape(num_heads, 2, b.shape[0] // num_heads // 2, b.shape[1])
    return halves.transpose(1, 2).reshape(b.shape)


@contextmanager
def _refused_if_taken(out: Path, kind: str) -> Iterator[None]:
    """Nothing is overwritten, whoever is faster."""
    refusal = InvalidRequest(f"{out} exists already; give another {kind} or remove it")
    if out.exists():
        raise refusal
    try:
        yield
    except FileExistsError:
        raise refusal from None

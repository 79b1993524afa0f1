"""Real PEFT adapters with random weights for a base, saved the way PEFT saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from hotswap.registry.bundles.bundle import METADATA_FILE
from hotswap.registry.bundles.peft_config import CONFIG_FILE
from hotswap.registry.domain.manifest import BundleMetadata
from hotswap.serving.base_model import BaseDirectory

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def load_reference(base: BaseDirectory) -> PreTrainedModel:
    """The base through transformers' own code, in float32."""
    return AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()


def make_adapter(
    base: BaseDirectory,
    directory: Path,
    *,
    seed: int = 0,
    strength: float = 0.3,
    metadata: BundleMetadata | None = None,
    **config: Any,
) -> Path:
    """Write an adapter whose B is normal with deviation `strength`, a DoRA's magnitudes half to
    one and a half times the base's; with strength 0 an untrained adapter."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": list(ALL_LINEAR), **config}
    model = get_peft_model(load_reference(base), LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0.0, strength) if strength else parameter.zero_()
            if ".lora_magnitude_vector." in name and strength:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    known = metadata or BundleMetadata(base=base.fingerprint(), prompt=base.prompt_format())
    (directory / METADATA_FILE).write_text(known.model_dump_json())
    saved = json.loads((directory / CONFIG_FILE).read_text())
    saved["base_model_name_or_path"] = base.model_id
    (directory / CONFIG_FILE).write_text(json.dumps(saved))
    return directory


def load_with_peft(base: BaseDirectory, directory: Path | None) -> torch.nn.Module:
    """The oracle: base and adapter through transformers and PEFT alone."""
    model = load_reference(base)
    return model if directory is None else PeftModel.from_pretrained(model, directory).eval()


@torch.no_grad()
def greedy(model: torch.nn.Module, prompt_ids: list[int], num_tokens: int) -> list[int]:
    """`num_tokens` greedy tokens, the end token ignored, the whole text recomputed each step."""
    ids = list(prompt_ids)
    for _ in range(num_tokens):
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
    return ids[len(prompt_ids) :]

"""Which linear layers a spec adapts and what that saves. Reads the base's config, no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.serving.base_model import BaseDirectory
from hotswap.training.methods.loading import lora_config, lora_layers, with_lora
from hotswap.training.spec import TrainingSpec


@dataclass(frozen=True, slots=True)
class Layer:
    """An adapted linear layer with w inputs and k outputs. Its weight is (out, in), or (in, out)
    where it `is_transposed`."""

    name: str
    num_in: int
    num_out: int
    is_transposed: bool = False

    @property
    def num_weights(self) -> int:
        return self.num_in * self.num_out

    def num_lora(self, r: int) -> int:
        """r · (k + w): A is (r, w) and B is (k, r); Hu et al. 2021."""
        return r * (self.num_in + self.num_out)


@dataclass(frozen=True, slots=True)
class Targets:
    """The layers that a spec adapts, and PEFT's config with their names in it."""

    layers: tuple[Layer, ...]
    config: LoraConfig


def find_targets(base: BaseDirectory, spec: TrainingSpec) -> Targets:
    """The layers that `spec.target_modules` means, as PEFT finds them, in the model's order.

    Raises InvalidSettings when it means none.
    """
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(base.path)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        lora = lora_config(spec)
        lora.use_dora = False  # it would compute with weights that are not there
        try:
            adapted = with_lora(model, lora)
        except ValueError as error:
            raise InvalidSettings(
                f"target_modules {spec.target_modules!r} name no layer of {base.model_id}: {error}"
            ) from None
    layers = tuple(
        Layer(name, module.in_features, module.out_features, module.fan_in_fan_out)
        for name, module in lora_layers(adapted).items()
    )
    resolved: Any = adapted.peft_config["default"]
    resolved.use_dora = spec.method == "dora"
    return Targets(layers, resolved)


def published_rank(spec: TrainingSpec) -> int:
    """The r of the adapter that is published; PiSSA and OLoRA need as much again to take out what
    they started from."""
    return 2 * spec.r if spec.method in ("pissa", "olora") else spec.r


def refuse_wasteful_rank(layers: Sequence[Layer], spec: TrainingSpec) -> None:
    """Raises InvalidSettings for the first layer where the adapter is no smaller than the layer:
    r · (k + w) ≥ w · k."""
    r = published_rank(spec)
    for layer in layers:
        if layer.num_lora(r) >= layer.num_weights:
            highest = (layer.num_weights - 1) // (layer.num_in + layer.num_out)
            raise InvalidSettings(
                f"r {spec.r}: {layer.name} would get {r} · ({layer.num_out} + {layer.num_in})"
                f" = {layer.num_lora(r):,} parameters beside its own {layer.num_weights:,}, which"
                f" saves nothing; give r at most {highest * spec.r // r}",
                layer=layer.name,
            )

"""The plain LoRA that every method ends in, for the untouched base."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict

from hotswap.training.methods.loading import with_lora

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Energy:
    """Of a weight change, Σ σᵢ²: all of it (its squared 2-norm), and what an adapter kept."""

    kept: float = 0.0
    total: float = 0.0

    def __add__(self, other: Energy) -> Energy:
        return Energy(self.kept + other.kept, self.total + other.total)

    @property
    def share(self) -> float:
        """0 to 1; 1 where nothing changed."""
        return self.kept / self.total if self.total else 1.0


@dataclass(frozen=True, slots=True)
class PlainLora:
    """Invariant: it means the same on any copy of the base; its config starts no other base.

    `tensors` have PEFT's file names. `energy` is an extraction's, for each layer; other methods
    have none.
    """

    tensors: Tensors
    config: LoraConfig
    energy: dict[str, Energy] = field(default_factory=dict)

    def config_values(self) -> dict[str, Any]:
        config: Any = self.config
        values: dict[str, Any] = config.to_dict()
        return values

    def mount(self, base: Any) -> PeftModel:
        """transformers' model `base` with this adapter, the factors in the dtype they have here."""
        model = with_lora(base, self.config)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(next(iter(self.tensors.values())).dtype)
        return self.load_into(model)

    def load_into(self, model: PeftModel) -> PeftModel:
        set_peft_model_state_dict(model, self.tensors)
        return model.eval()

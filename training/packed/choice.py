"""Which models train through the packed pass."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from torch import nn

from hotswap.serving.models.weights import FUSED, unsupported_reason, windows
from hotswap.training.packed.llama import PackedLlama
from hotswap.training.packed.products import ADAPTER

_known: WeakKeyDictionary[nn.Module, PackedLlama | None] = WeakKeyDictionary()


def packed(model: nn.Module) -> PackedLlama | None:
    """The model's packed pass, made when it is first asked for; None when it cannot have one."""
    if model not in _known:
        reason = unsupported(model)
        _known[model] = None if reason else PackedLlama(_causal(model), windows(model.config))
    return _known[model]


def unsupported(model: nn.Module) -> str | None:
    """Why a model trains through transformers' and PEFT's own code; None when it is packed."""
    if not isinstance(model, PeftModel):
        return "it is not adapted by PEFT"
    causal = _causal(model)
    if reason := unsupported_reason(causal.config):
        return reason
    layers = [
        layer.get_submodule(name)
        for layer in causal.model.layers
        for names in FUSED.values()
        for name in names
    ]
    for layer in layers:
        if reason := _unsupported_layer(layer):
            return reason
    trained = sum(isinstance(layer, LoraLinear) for layer in layers) * 2
    if trained != sum(p.requires_grad for p in model.parameters()):
        return "weights besides the LoRA of linear layers are trained"
    return None


def _unsupported_layer(layer: nn.Module) -> str | None:
    base = layer
    if isinstance(layer, LoraLinear):
        base = layer.get_base_layer()
        if list(layer.lora_A) != [ADAPTER] or layer.lora_variant or layer.fan_in_fan_out:
            return "its LoRA is of a special kind"
        if not isinstance(layer.lora_dropout[ADAPTER], nn.Identity):
            return "it has dropout"
        if layer.lora_bias[ADAPTER]:
            return "its LoRA has biases"
    if type(base) is not nn.Linear:
        return f"a base layer is of type {type(base).__name__}"
    return None


def _causal(model: Any) -> Any:
    return model.get_base_model()

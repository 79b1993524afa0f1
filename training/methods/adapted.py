"""A base whose weights train by one method, and the plain LoRA that comes out of it.

`adapt` is where a method is chosen; the loop, the loss and the optimiser do not know which it is.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from hotswap.serving.base_model import BaseDirectory
from hotswap.training.loss import adapter_tensors, attention_for, refuse_logit_changes, trainable
from hotswap.training.methods.extraction import extract
from hotswap.training.methods.layers import Targets, find_targets
from hotswap.training.methods.loading import load_base, load_lora_model
from hotswap.training.methods.plain import PlainLora, Tensors
from hotswap.training.spec import TrainingSpec


class Adapted:
    """LoRA, QLoRA and DoRA: what trains is what is published.

    Invariant: `masters[i]` is the float32 original of the i-th parameter in `trainable(model)`, and
    `rate_factors[i]` what its learning rate is multiplied by.
    """

    def __init__(
        self, base: BaseDirectory, spec: TrainingSpec, targets: Targets, longest_row: int
    ) -> None:
        self._base = base
        self._spec = spec
        self._targets = targets
        self._longest_row = longest_row
        self.model, self.masters = self._load()
        self.rate_factors = self._rate_factors()

    @property
    def trains_what_is_published(self) -> bool:
        """Whether the untouched base with the published adapter is the model in training."""
        return self._spec.method in ("lora", "dora")

    def snapshot(self) -> Tensors:
        """A copy of all weights that train, exactly as the last pass used them."""
        return adapter_tensors(self.model)

    def plain_lora(self, snapshot: Tensors) -> PlainLora:
        """What is published of the weights in a snapshot of this run."""
        return PlainLora(snapshot, self._targets.config)

    def published_model(self, adapter: PlainLora) -> Any:
        """A PeftModel with the published adapter on the untouched base, in `spec.dtype`."""
        if self.trains_what_is_published:
            return adapter.load_into(self.model)
        return adapter.mount(self._plain_base())

    def _load(self) -> tuple[Any, list[torch.Tensor]]:
        return load_lora_model(self._base, self._spec, self._longest_row)

    def _plain_base(self) -> Any:
        return load_base(self._base, self._spec, attention_for(self._longest_row))

    def _rate_factors(self) -> list[float]:
        """Hayou et al. 2024: the rate of B is that of A times a constant ratio."""
        ratio = self._spec.lora_plus_ratio
        return [
            ratio if ".lora_B." in name else 1.0
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        ]


class Rebased(Adapted):
    """PiSSA and OLoRA: the base is W - s · B₀ · A₀ in training, so the change from W is
    s · (B · A - B₀ · A₀): a LoRA of rank 2 r with the same scale, A and A₀ below one another, B and
    -B₀ side by side (PEFT's path_initial_model_for_weight_conversion does the same).
    """

    def _load(self) -> tuple[Any, list[torch.Tensor]]:
        model, masters = super()._load()
        self._first = adapter_tensors(model)
        return model, masters

    def plain_lora(self, snapshot: Tensors) -> PlainLora:
        tensors = {
            name: torch.cat([tensor, self._first[name]], 0)
            if ".lora_A." in name
            else torch.cat([tensor, -self._first[name]], 1)
            for name, tensor in snapshot.items()
        }
        config: Any = copy.deepcopy(self._targets.config)
        config.r *= 2
        config.lora_alpha *= 2**0.5 if config.use_rslora else 2
        return PlainLora(tensors, config)


class Full(Adapted):
    """Full fine-tuning of the targeted layers' weights; their change is published as its truncated
    SVD. Embeddings, norms and biases rest: no LoRA of linear layers could hold what they learn.
    """

    def snapshot(self) -> Tensors:
        return {
            name: parameter.detach().clone()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def plain_lora(self, snapshot: Tensors) -> PlainLora:
        plain = self._plain_base()
        return extract(snapshot, dict(plain.named_parameters()), self._targets)

    def _load(self) -> tuple[Any, list[torch.Tensor]]:
        model = self._plain_base()
        refuse_logit_changes(model)
        names = {f"{layer.name}.weight" for layer in self._targets.layers}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return model, [p.detach().float().clone() for p in trainable(model)]


_METHODS: dict[str, type[Adapted]] = {"pissa": Rebased, "olora": Rebased, "full": Full}


def adapt(base: BaseDirectory, spec: TrainingSpec, longest_row: int) -> Adapted:
    """The base ready to train by `spec.method` on rows of at most `longest_row` tokens.

    Raises InvalidSettings for targets that are not there, NotServable for an architecture whose
    logits are not simply the head's output.
    """
    return _METHODS.get(spec.method, Adapted)(base, spec, find_targets(base, spec), longest_row)

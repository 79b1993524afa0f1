"""The change of a weight as a LoRA: its truncated singular value decomposition."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hotswap.training.methods.layers import Targets
from hotswap.training.methods.plain import Energy, PlainLora, Tensors

PREFIX = "base_model.model."


def extract(
    trained: Mapping[str, torch.Tensor], original: Mapping[str, torch.Tensor], targets: Targets
) -> PlainLora:
    """The LoRA of rank r nearest to `trained - original` in each layer (Eckart & Young 1936).

    Both map `<layer>.weight` to weights of one dtype, which the factors get too.
    """
    config = targets.config
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    tensors: Tensors = {}
    energy: dict[str, Energy] = {}
    for layer in targets.layers:
        after, before = (weights[f"{layer.name}.weight"] for weights in (trained, original))
        change = after.detach().float() - before.detach().float()
        change = change.T if layer.is_transposed else change  # (out, in)
        a, b, energy[layer.name] = factors(change / scale, config.r)
        stem = f"{PREFIX}{layer.name}"
        tensors[f"{stem}.lora_A.weight"] = a.to(after.dtype).contiguous()
        tensors[f"{stem}.lora_B.weight"] = b.to(after.dtype).contiguous()
    return PlainLora(tensors, config, energy)


def factors(change: torch.Tensor, r: int) -> tuple[torch.Tensor, torch.Tensor, Energy]:
    """A (r, in) and B (out, r) with B · A the best rank-r approximation of `change` (out, in), and
    the energy of its r largest singular values beside that of all.

    Each factor takes √σ, so that both are of one size in a short dtype.
    """
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    root = s[:r].sqrt()
    squares = s.double().square()
    energy = Energy(float(squares[:r].sum()), float(squares.sum()))
    return root[:, None] * vh[:r], u[:, :r] * root, energy

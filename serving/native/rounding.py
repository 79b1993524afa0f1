"""The numbers that the kernels multiply with, from the base weights."""

from __future__ import annotations

import torch
from torch import Tensor

from hotswap.serving.native.layout import HALF_GROUP


def quantize_channels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 of (out, in) and its scale (out,): weight ≈ quantized · scale."""
    weight = weight.float()
    scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    quantized = (weight / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return quantized, scale


def quantize_half_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """0 to 15 of (out, in), and a bfloat16 scale and minimum for each output and HALF_GROUP
    input features: weight ≈ scale · number + minimum."""
    groups = torch.unflatten(weight.float(), 1, (-1, HALF_GROUP))
    minimum, maximum = groups.amin(-1), groups.amax(-1)
    scale = ((maximum - minimum) / 15).clamp_min(1e-12).bfloat16()
    minimum = minimum.bfloat16()
    numbers = (groups - minimum.float()[..., None]) / scale.float()[..., None]
    return numbers.round_().clamp_(0, 15).to(torch.uint8).flatten(1), scale, minimum

"""Linear layers of the base in each quantization, behind one call: (num_tokens, in) → out.

| name       | weights                      | activations            | a row depends on its batch |
|------------|------------------------------|------------------------|----------------------------|
| `int8`     | int8 per output channel      | int8 per 64 features   | never: integer sums        |
| `int4`     | 4 bits, scaled by 32         | int8 per 64 features   | natively never             |
| `nf4`      | bitsandbytes NF4             | compute dtype          | may, in the last bit       |
| `bnb-int8` | bitsandbytes LLM.int8()      | int8 per token         | may, in the last bit       |
| `none`     | compute dtype                | compute dtype          | may, in the last bit       |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hotswap.serving.native.layout import GROUP, HALF_GROUP
from hotswap.serving.native.rounding import quantize_channels, quantize_half_groups
from hotswap.serving.settings import Quantization

Linear = Callable[[Tensor], Tensor]


def make_linear(
    weight: Tensor, bias: Tensor | None, quantization: Quantization, dtype: torch.dtype
) -> Linear:
    """A linear layer from `weight` (out, in) and `bias` (out,), computing in `dtype`."""
    if quantization is Quantization.INT8:
        return Int8Linear(weight, bias, dtype)
    if quantization is Quantization.INT4:
        return Int4Linear(weight, bias, dtype)
    if quantization is Quantization.NONE:
        return PlainLinear(weight.to(dtype), None if bias is None else bias.to(dtype))
    return _bitsandbytes_linear(weight, bias, quantization, dtype)


class PlainLinear:
    """The base's own weights, in the compute dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight.contiguous()
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self._weight, self._bias)


def quantize_rows(x: Tensor) -> Tensor:
    """What int8 activations, one scale for each token and GROUP input features, stand for."""
    groups = torch.unflatten(x.float(), -1, (-1, GROUP))
    scale = (groups.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
    rounded: Tensor = (groups / scale).round_() * scale
    return rounded.flatten(-2)


class Int4Linear:
    """Weights of 4 bits with a scale and a minimum for each 32 input features, times the same
    activations as Int8Linear. Computed in float32 from what both stand for."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        numbers, scale, minimum = quantize_half_groups(weight)
        groups = torch.unflatten(numbers, 1, (-1, HALF_GROUP)) * scale.float()[..., None]
        self._weight = (groups + minimum.float()[..., None]).flatten(1)
        self._bias = None if bias is None else bias.to(dtype)
        self._dtype = dtype

    def __call__(self, x: Tensor) -> Tensor:
        y = functional.linear(quantize_rows(x), self._weight).to(self._dtype)
        return y if self._bias is None else y.add_(self._bias)


class Int8Linear:
    """Symmetric int8 weights per output channel times dynamic int8 activations, one scale for each
    token and GROUP input features: y = Σ_g (q_xg · q_wg) · s_xg · s_w, with s = max|·| / 127.

    The integer sums are exact, so a row's result is bit-equal whatever rows share the call.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        quantized, self._scale = quantize_channels(weight)
        self._products = [integer_product(group) for group in torch.split(quantized, GROUP, 1)]
        self._bias = None if bias is None else bias.to(dtype)
        self._dtype = dtype

    def __call__(self, x: Tensor) -> Tensor:
        y = torch.zeros(len(x), len(self._scale))
        for part, product in zip(torch.split(x.float(), GROUP, 1), self._products, strict=True):
            scale = (part.abs().amax(-1, keepdim=True) / 127).clamp_min_(1e-30)  # (num_tokens, 1)
            y.addcmul_(product((part / scale).round_()), scale)
        result = y.mul_(self._scale).to(self._dtype)
        return result if self._bias is None else result.add_(self._bias)


def integer_product(weight: Tensor) -> Linear:
    """Exact sums of int8 `weight` (out, in) times integers of at most 127 in float32."""
    return OneDnnProduct(weight) if onednn_is_exact() else FloatProduct(weight)


class OneDnnProduct:
    """oneDNN's integer product: with scale 1 and zero point 128 it gives the sum itself."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
        # As the product asks for them: oneDNN runs on the CPU alone.
        self._ones = torch.ones(len(weight))
        self._zero_points = torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            (x + 128).to(torch.uint8),
            1.0,
            128,
            self._weight,
            self._ones,
            self._zero_points,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return product


class FloatProduct:
    """The same sums in float32: each is below 2 ** 24, so no order of adding rounds one."""

    def __init__(self, weight: Tensor) -> None:
        assert weight.shape[1] * 127 * 127 < 1 << 24
        self._weight = weight.float().T.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self._weight


@cache
def onednn_is_exact() -> bool:
    """Whether oneDNN's integer product is exact here: it adds pairs of products in 16 bits, which
    overflow, on processors without VNNI."""
    weight = torch.full((16, GROUP), 127, dtype=torch.int8)
    sums = OneDnnProduct(weight)(torch.full((1, GROUP), 127.0))
    return bool((sums == GROUP * 127 * 127).all())


def _bitsandbytes_linear(
    weight: Tensor, bias: Tensor | None, quantization: Quantization, dtype: torch.dtype
) -> Linear:
    """A frozen bitsandbytes layer; used by serving alone, never shared with training.

    NF4 in eval mode repacks its weight in place on some CPUs and never unpacks it, so an object
    that has served must not train or merge.
    """
    import bitsandbytes

    layers: Any = bitsandbytes.nn
    num_out, num_in = weight.shape
    layer: torch.nn.Module
    if quantization is Quantization.NF4:
        layer = layers.Linear4bit(
            num_in, num_out, bias is not None, compute_dtype=dtype, quant_type="nf4"
        )
        layer.weight = layers.Params4bit(
            weight.to(dtype).contiguous(), requires_grad=False, quant_type="nf4"
        )
    else:
        layer = layers.Linear8bitLt(num_in, num_out, bias is not None, has_fp16_weights=False)
        # Only a weight that comes from the host is quantized at once, others at the first call.
        layer.weight = layers.Int8Params(
            weight.to(torch.float16).contiguous().cpu(), requires_grad=False
        )
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias.to(dtype), requires_grad=False)
    layer = layer.to(weight.device).eval()
    # LLM.int8() works in float16 and warns at every call that is not.
    input_dtype = dtype if quantization is Quantization.NF4 else torch.float16

    def call(x: Tensor) -> Tensor:
        y: Tensor = layer(x.to(input_dtype))
        return y.to(dtype)

    return call

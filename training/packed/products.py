"""Frozen linear layers with their LoRA, several at once, as one matrix product each way.

Layers that read the same input are one matrix, and each one's scaled B stands beside it as further
columns, so base and update of all of them are one product of [x, x·Aᵀ] with [W, s·B]. Its backward
pass makes gradients of A, B and x only: W is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

ADAPTER = "default"
"""The name that PEFT gives the adapter that trains."""


@dataclass(frozen=True, slots=True)
class Update:
    """One layer's LoRA: B's rows and columns in the joint matrix, and what scales it."""

    a: nn.Parameter  # (r, in)
    b: nn.Parameter  # (out, r)
    scaling: float
    rows: slice
    columns: slice


class FrozenLinears:
    """Layers of the same input side by side.

    Invariant: after `refresh`, `joined` (all out, in + all r) is [W, s·B] and `shrink` (all r, in)
    is A, for the LoRA weights as they are now. The layers' own weights are views into `joined`, so
    that the base is in memory once.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        bases = [_base(layer) for layer in layers]
        self.num_in = bases[0].in_features
        self.updates: list[Update] = []
        row = column = 0
        for layer, base in zip(layers, bases, strict=True):
            if isinstance(layer, LoraLinear):
                self.updates.append(_update(layer, row, column))
                column += self.updates[-1].a.shape[0]
            row += base.out_features
        self.joined = bases[0].weight.new_zeros(row, self.num_in + column)
        self.shrink = self.joined.new_zeros(column, self.num_in)
        row = 0
        for base in bases:
            place = self.joined[row : row + base.out_features, : self.num_in]
            place.copy_(base.weight.detach())
            base.weight.data = place
            row += base.out_features
        self.bias = _joined_bias(bases)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for update in self.updates for p in (update.a, update.b)]

    @torch.no_grad()
    def refresh(self) -> None:
        expand = self.joined[:, self.num_in :]
        for update in self.updates:
            self.shrink[update.columns] = update.a
            torch.mul(update.b, update.scaling, out=expand[update.rows, update.columns])

    def forward(self, inputs: Tensor) -> Tensor:
        """(num_tokens, all out) from `inputs` (num_tokens, in + all r), whose first `in` columns
        are given; the others are filled with x·Aᵀ."""
        inputs[:, self.num_in :] = inputs[:, : self.num_in] @ self.shrink.T
        return functional.linear(inputs, self.joined, self.bias)

    def backward(
        self, gradient: Tensor, inputs: Tensor, needs_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The gradients of x (num_tokens, in) and of `parameters`, from that of the output."""
        columns = slice(None) if needs_input else slice(self.num_in, None)
        products = gradient @ self.joined[:, columns]
        shrunk = products[:, products.shape[1] - len(self.shrink) :]  # of x·Aᵀ
        of_a = shrunk.T @ inputs[:, : self.num_in]
        of_parameters = []
        for update in self.updates:
            reduced = inputs[:, self.num_in :][:, update.columns]
            of_b = gradient[:, update.rows].T @ reduced
            of_parameters += [of_a[update.columns], of_b * update.scaling]
        if not needs_input:
            return None, of_parameters
        return torch.addmm(products[:, : self.num_in], shrunk, self.shrink), of_parameters


class _Product(Function):
    """x (num_tokens, in) through the layers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linears: FrozenLinears, *_: Tensor) -> Tensor:
        inputs = _room(x, linears)
        inputs[:, : linears.num_in] = x
        output = linears.forward(inputs)
        ctx.linears = linears
        ctx.save_for_backward(inputs)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (inputs,) = ctx.saved_tensors
        of_x, of_parameters = ctx.linears.backward(gradient, inputs, ctx.needs_input_grad[0])
        return of_x, None, *of_parameters


class _NormProduct(Function):
    """x (num_tokens, in) float32, normed by its root mean square (Zhang & Sennrich 2019), through
    the layers in their own dtype."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, linears: FrozenLinears, *_: Tensor
    ) -> Tensor:
        inputs = _room(x, linears, linears.joined.dtype)
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        inputs[:, : linears.num_in] = x * scale * weight
        output = linears.forward(inputs)
        ctx.linears = linears
        ctx.save_for_backward(x, weight, scale, inputs)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, scale, inputs = ctx.saved_tensors
        of_normed, of_parameters = ctx.linears.backward(gradient, inputs, ctx.needs_input_grad[0])
        of_x = None if of_normed is None else norm_gradient(of_normed, x, weight, scale)
        return of_x, None, None, None, *of_parameters


class _GatedProduct(Function):
    """SwiGLU (Shazeer 2020): silu(gate) · up of [gate, up] (num_tokens, 2 in), through the
    layers."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, linears: FrozenLinears, *_: Tensor) -> Tensor:
        inputs = _room(gate_up, linears)
        gate, up = gate_up.chunk(2, 1)
        torch.mul(functional.silu(gate), up, out=inputs[:, : linears.num_in])
        output = linears.forward(inputs)
        ctx.linears = linears
        ctx.save_for_backward(gate_up, inputs)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gate_up, inputs = ctx.saved_tensors
        of_x, of_parameters = ctx.linears.backward(gradient, inputs, True)
        gate, up = gate_up.chunk(2, 1)
        of_both = torch.empty_like(gate_up)
        of_gate, of_up = of_both.chunk(2, 1)
        torch.mul(of_x, functional.silu(gate), out=of_up)
        of_gate.copy_(torch.ops.aten.silu_backward(of_x * up, gate))
        return of_both, None, *of_parameters


def product(x: Tensor, linears: FrozenLinears) -> Tensor:
    """(num_tokens, all out) from x (num_tokens, in)."""
    return _of(_Product.apply(x, linears, *linears.parameters))  # type: ignore[no-untyped-call]


def norm_product(x: Tensor, weight: Tensor, eps: float, linears: FrozenLinears) -> Tensor:
    """(num_tokens, all out) from x (num_tokens, in) float32 and the norm's weight (in,)."""
    return _of(_NormProduct.apply(x, weight, eps, linears, *linears.parameters))  # type: ignore[no-untyped-call]


def gated_product(gate_up: Tensor, linears: FrozenLinears) -> Tensor:
    """(num_tokens, all out) from the gates and the values they open (num_tokens, 2 in)."""
    return _of(_GatedProduct.apply(gate_up, linears, *linears.parameters))  # type: ignore[no-untyped-call]


def norm_gradient(gradient: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Of y = x · s · w with s = 1 / √(mean(x²) + eps): s · (g·w - x · s² · mean(g·w·x))."""
    weighted = gradient * weight.to(x.dtype)
    mean = (weighted * x).mean(-1, keepdim=True)
    return weighted.addcmul_(x, mean * scale.square(), value=-1).mul_(scale)


def _room(x: Tensor, linears: FrozenLinears, dtype: torch.dtype | None = None) -> Tensor:
    return x.new_empty(len(x), linears.joined.shape[1], dtype=dtype)


def _base(layer: nn.Module) -> nn.Linear:
    base = layer.get_base_layer() if isinstance(layer, LoraLinear) else layer
    assert isinstance(base, nn.Linear)
    return base


def _update(layer: Any, row: int, column: int) -> Update:
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return Update(
        a, b, layer.scaling[ADAPTER], slice(row, row + len(b)), slice(column, column + len(a))
    )


def _joined_bias(bases: Sequence[nn.Linear]) -> Tensor | None:
    if all(base.bias is None for base in bases):
        return None
    return torch.cat(
        [
            base.weight.new_zeros(base.out_features) if base.bias is None else base.bias.detach()
            for base in bases
        ]
    )


def _of(value: Any) -> Tensor:
    tensor: Tensor = value
    return tensor

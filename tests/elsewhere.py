"""A device that is not the CPU, for machines without one: its tensors hold real numbers, which the
CPU computes, but they cannot meet tensors of the CPU, as on CUDA.

It changes torch for good: use it in a process of its own (`process`).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

NAME = "elsewhere"
CPU = torch.device("cpu")
_aten = torch.ops.aten
_ACROSS = (_aten.copy_.default, _aten._to_copy.default)
_COMPOSITE = "CompositeImplicitAutograd"


class MixedDevices(RuntimeError):
    """What CUDA would say to a tensor that was made without its companions' device."""


class _There(Tensor):
    """Says that it lies elsewhere; `here` has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> _There:
        made: _There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME, 0),
        )
        made.here = here
        return made

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _compute(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees what is made elsewhere of no tensor or of the CPU's."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _compute(function, args, kwargs or {})


@torch.inference_mode(mode=False)
@torch.no_grad()
def _compute(function: Any, args: Any, kwargs: Any) -> Any:
    """Not in inference mode: a view of a tensor from outside of it would have to be no tensor of
    inference."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), _COMPOSITE):
        with _Mode():
            return function.decompose(*args, **kwargs)
    if function is _aten._fused_sdp_choice.default:
        return 0  # attention by plain products: no device has to have a kernel of its own for it
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    there = [t for t in tensors if isinstance(t, _There)]
    is_across = function in _ACROSS
    for tensor in tensors:
        # A number in a tensor may come from anywhere, as on CUDA.
        if there and not is_across and not isinstance(tensor, _There) and tensor.ndim:
            raise MixedDevices(f"{function}: {tuple(tensor.shape)} is on the CPU, others elsewhere")
    asked = kwargs.get("device")
    goes_there = bool(there) if asked is None else torch.device(asked).type == NAME
    if goes_there and asked is not None:
        kwargs = {**kwargs, "device": CPU}
    inner_args, inner = pytree.tree_map_only(_There, lambda t: t.here, (args, kwargs))
    found = function(*inner_args, **inner)
    if function is _aten.copy_.default:
        return args[0]
    if not goes_there:
        return found
    found = pytree.tree_map_only(Tensor, _There, found)
    if len(there) < len(tensors):
        return found
    return return_and_correct_aliasing(function, args, kwargs, found)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """The device, which is there inside of the block."""
    lifts_before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes its numbers on the CPU first
    try:
        with _Mode():
            yield torch.device(NAME)
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts_before)


def _register() -> None:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)
    torch.set_num_threads(1)


@contextmanager
def process() -> Iterator[ProcessPoolExecutor]:
    """A process in which `elsewhere` can be used."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_register) as pool:
        yield pool

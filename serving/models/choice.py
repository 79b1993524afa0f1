"""Chooses how and where the base is run: on the native kernels where they can, else in PyTorch,
in our own forward pass for the Llama-like families or through transformers' modelling code."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.serving.adapters.lora import CPU, LoraRoom
from hotswap.serving.base_model import BaseDirectory
from hotswap.serving.engine.pages import PAGE
from hotswap.serving.models.generic import Generic
from hotswap.serving.models.llama import Llama
from hotswap.serving.models.native_llama import NativeLlama, unsupported
from hotswap.serving.models.step import Model
from hotswap.serving.models.weights import Shape, read_config, unsupported_reason
from hotswap.serving.native import library
from hotswap.serving.settings import Device, Kernels, Quantization, ServingSettings

NATIVE_BITS = {Quantization.INT8: 8, Quantization.INT4: 4}
# What there is room for where the settings do not say. In PyTorch every slot is memory for the
# highest rank; to the native kernels a slot is a pointer.
NATIVE_MAX_RANK = 256
TORCH_SLOTS, TORCH_MAX_RANK = 16, 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Placement:
    """What the settings leave open, decided for this machine."""

    device: torch.device
    quantization: Quantization

    @classmethod
    def of(cls, settings: ServingSettings) -> Placement:
        """Raises InvalidSettings when the device is missing or cannot have the quantization."""
        device = settings.device
        if device is Device.AUTO:
            device = Device.CUDA if torch.cuda.is_available() else Device.CPU
        if device is Device.CUDA and not torch.cuda.is_available():
            raise InvalidSettings("device is 'cuda', but PyTorch finds no CUDA device")
        quantization = settings.quantization or _DEFAULTS[device]
        if device is Device.CUDA and quantization in NATIVE_BITS:
            raise InvalidSettings(
                f"quantization {quantization.value!r} is for the CPU; on CUDA choose bnb-int8, nf4 "
                "or none"
            )
        return cls(torch.device(device.value), quantization)


_DEFAULTS = {Device.CPU: Quantization.INT8, Device.CUDA: Quantization.BNB_INT8}


def make_model(settings: ServingSettings, placement: Placement, base: BaseDirectory) -> Model:
    """Loads and quantizes the base. Raises BaseNotFound for a model that nothing here can run,
    InvalidSettings when native kernels are asked for and cannot be had."""
    num_threads = settings.num_threads or torch.get_num_threads()
    num_pages = settings.kv_cache_tokens // PAGE
    max_rows = settings.max_num_batched_tokens
    foreign = unsupported_reason(read_config(base))
    if settings.kernels is not Kernels.TORCH:
        reason = foreign or _why_not(settings, placement, base)
        if reason is None:
            return NativeLlama(
                base,
                _room(settings, settings.max_num_seqs, NATIVE_MAX_RANK, torch.bfloat16),
                num_pages=num_pages,
                max_rows=max_rows,
                num_threads=num_threads,
                bits=NATIVE_BITS[placement.quantization],
            )
        if settings.kernels is Kernels.NATIVE:
            raise InvalidSettings(f"kernels is 'native', but {reason}; leave it at 'auto'")
        if foreign is None:
            _log.warning("running in PyTorch, which is slower: %s", reason)
    if foreign is not None:
        _log.warning(
            "running through transformers' own code, one sequence after the other: %s", foreign
        )
    dtype, lora_dtype = _dtypes(settings, placement)
    in_torch = Llama if foreign is None else Generic
    return in_torch(
        base,
        placement.quantization,
        dtype,
        _room(settings, TORCH_SLOTS, TORCH_MAX_RANK, lora_dtype, placement.device),
        num_pages=num_pages,
        max_rows=max_rows,
        num_threads=num_threads,
    )


def _room(
    settings: ServingSettings,
    num_slots: int,
    max_rank: int,
    dtype: torch.dtype,
    device: torch.device = CPU,
) -> LoraRoom:
    return LoraRoom(
        settings.max_loras or num_slots, settings.max_lora_rank or max_rank, dtype, device
    )


def _why_not(settings: ServingSettings, placement: Placement, base: BaseDirectory) -> str | None:
    """Why the native kernels cannot run this; None when they can."""
    if placement.quantization not in NATIVE_BITS:
        return f"quantization is {placement.quantization.value!r}; they run int8 and int4"
    if settings.dtype == "bfloat16" or settings.lora_dtype == "float32":
        return "they compute in float32 and keep adapters in bfloat16"
    try:
        library.load()
    except library.KernelsMissing as error:
        return str(error)
    return unsupported(Shape.of(base))


def _dtypes(settings: ServingSettings, placement: Placement) -> tuple[torch.dtype, torch.dtype]:
    """The compute type and the type of the adapters in their slots."""
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "float32" if placement.quantization in NATIVE_BITS else "bfloat16"
    lora_dtype = dtype if settings.lora_dtype == "auto" else settings.lora_dtype
    return getattr(torch, dtype), getattr(torch, lora_dtype)

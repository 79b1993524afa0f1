"""Chooses how the base is run: on the native kernels where they can, else in PyTorch."""

from __future__ import annotations

import logging

import torch

from registry.errors import InvalidSettings
from serving.base_model import BaseDirectory
from serving.lora import LoraRoom
from serving.models.llama import Llama
from serving.models.native_llama import NativeLlama, unsupported
from serving.models.step import Model
from serving.models.weights import Shape
from serving.native import library
from serving.pages import PAGE
from serving.settings import Kernels, Quantization, ServingSettings

NATIVE_BITS = {Quantization.INT8: 8, Quantization.INT4: 4}

_log = logging.getLogger(__name__)


def make_model(settings: ServingSettings, base: BaseDirectory) -> Model:
    """Loads and quantizes the base. Raises BaseNotFound for another kind of model,
    InvalidSettings when native kernels are asked for and cannot be had."""
    num_threads = settings.num_threads or torch.get_num_threads()
    num_pages = settings.kv_cache_tokens // PAGE
    max_rows = settings.max_num_batched_tokens
    if settings.kernels is not Kernels.TORCH:
        reason = _why_not(settings, base)
        if reason is None:
            room = LoraRoom(settings.max_loras, settings.max_lora_rank, torch.bfloat16)
            return NativeLlama(
                base,
                room,
                num_pages=num_pages,
                max_rows=max_rows,
                num_threads=num_threads,
                bits=NATIVE_BITS[settings.quantization],
            )
        if settings.kernels is Kernels.NATIVE:
            raise InvalidSettings(f"kernels is 'native', but {reason}; leave it at 'auto'")
        _log.warning("running in PyTorch, which is slower: %s", reason)
    dtype, lora_dtype = _dtypes(settings)
    return Llama(
        base,
        settings.quantization,
        dtype,
        LoraRoom(settings.max_loras, settings.max_lora_rank, lora_dtype),
        num_pages=num_pages,
        max_rows=max_rows,
        num_threads=num_threads,
    )


def _why_not(settings: ServingSettings, base: BaseDirectory) -> str | None:
    """Why the native kernels cannot run this; None when they can."""
    if settings.quantization not in NATIVE_BITS:
        return f"quantization is {settings.quantization.value!r}; they run int8 and int4"
    if settings.dtype == "bfloat16" or settings.lora_dtype == "float32":
        return "they compute in float32 and keep adapters in bfloat16"
    try:
        library.load()
    except library.KernelsMissing as error:
        return str(error)
    return unsupported(Shape.of(base))


def _dtypes(settings: ServingSettings) -> tuple[torch.dtype, torch.dtype]:
    """The compute type and the type of the adapters in their slots."""
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "float32" if settings.quantization in NATIVE_BITS else "bfloat16"
    lora_dtype = dtype if settings.lora_dtype == "auto" else settings.lora_dtype
    return getattr(torch, dtype), getattr(torch, lora_dtype)

"""The structs and constants of `src/types.h`, for ctypes: a test compares the two, field by field.

A struct is named as in C, with Struct behind it.
"""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

TILE_N = 16
"""Outputs of a linear layer (n) that are computed together."""
GROUP = 64
"""Input features that share one activation scale."""
HALF_GROUP = 32
"""Input features that share the scale and minimum of 4-bit weights."""
MAX_PARTS = 3
LINEARS = ("qkv", "o", "gate_up", "down")

_Parts32 = c_int32 * MAX_PARTS
_Parts64 = c_int64 * MAX_PARTS


class LinearStruct(Structure):
    _fields_ = (
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("bits", c_int32),
        ("k", c_int32),
        ("n", c_int32),
        ("part_end", _Parts32),
        ("num_parts", c_int32),
    )


class LoraLinearStruct(Structure):
    _fields_ = (
        ("a", c_void_p),
        ("b", c_void_p),
        ("magnitude", c_void_p),
        ("b_start", _Parts64),
        ("rank_start", _Parts32),
        ("num_pairs", _Parts32),
        ("num_ranks", c_int32),
    )


class LayerStruct(Structure):
    _fields_ = (
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("linear", LinearStruct * len(LINEARS)),
        ("cache", c_void_p),
        ("window", c_int32),
    )


class ModelStruct(Structure):
    _fields_ = (
        ("hidden", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("num_layers", c_int32),
        ("intermediate", c_int32),
        ("max_rows", c_int32),
        ("max_keys", c_int32),
        ("max_ranks", c_int32),
        ("vocab", c_int32),
        ("eps", c_float),
        ("embedding16", c_void_p),
        ("embedding32", c_void_p),
        ("rotary", c_void_p),
        ("layers", POINTER(LayerStruct)),
        ("norm", c_void_p),
        ("head", LinearStruct),
    )


class AdapterRowsStruct(Structure):
    _fields_ = (
        ("linears", POINTER(LoraLinearStruct)),
        ("scale", c_float),
        ("start", c_int32),
        ("end", c_int32),
        ("first_entry", c_int32),
    )


class SegmentStruct(Structure):
    _fields_ = (
        ("pages", c_void_p),
        ("start", c_int32),
        ("end", c_int32),
        ("position", c_int32),
    )


class StepStruct(Structure):
    _fields_ = (
        ("token_ids", c_void_p),
        ("segments", POINTER(SegmentStruct)),
        ("adapters", POINTER(AdapterRowsStruct)),
        ("wanted", c_void_p),
        ("logits", c_void_p),
        ("best", c_void_p),
        ("num_rows", c_int32),
        ("num_segments", c_int32),
        ("num_adapters", c_int32),
        ("num_wanted", c_int32),
        ("shrunk_stride", c_int32),
    )

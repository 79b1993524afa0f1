"""The structs of `src/types.h`, field by field: a change here is a change there, and a version."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

VERSION = 7
TILE = 16
"""Output columns that are computed together."""
GROUP = 64
"""Input features that share one activation scale."""
HALF_GROUP = 32
"""Input features that share the step and lowest value of 4-bit weights."""
MAX_PARTS = 3
LINEARS = ("qkv", "o", "gate_up", "down")

_Parts32 = c_int32 * MAX_PARTS
_Parts64 = c_int64 * MAX_PARTS


class Linear(Structure):
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


class LoraLinear(Structure):
    _fields_ = (
        ("a", c_void_p),
        ("b", c_void_p),
        ("magnitude", c_void_p),
        ("b_start", _Parts64),
        ("rank_start", _Parts32),
        ("num_pairs", _Parts32),
        ("width", c_int32),
    )


class Layer(Structure):
    _fields_ = (
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("linear", Linear * len(LINEARS)),
        ("cache", c_void_p),
        ("window", c_int32),
    )


class Model(Structure):
    _fields_ = (
        ("hidden", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("num_layers", c_int32),
        ("intermediate", c_int32),
        ("max_rows", c_int32),
        ("max_keys", c_int32),
        ("max_width", c_int32),
        ("vocab", c_int32),
        ("eps", c_float),
        ("embedding16", c_void_p),
        ("embedding32", c_void_p),
        ("rotary", c_void_p),
        ("layers", POINTER(Layer)),
        ("norm", c_void_p),
        ("head", Linear),
    )


class LoraGroup(Structure):
    _fields_ = (
        ("adapter", POINTER(LoraLinear)),
        ("scale", c_float),
        ("start", c_int32),
        ("end", c_int32),
        ("low", c_int32),
    )


class Segment(Structure):
    _fields_ = (
        ("pages", c_void_p),
        ("start", c_int32),
        ("end", c_int32),
        ("position", c_int32),
    )


class Step(Structure):
    _fields_ = (
        ("token_ids", c_void_p),
        ("segments", POINTER(Segment)),
        ("groups", POINTER(LoraGroup)),
        ("wanted", c_void_p),
        ("logits", c_void_p),
        ("best", c_void_p),
        ("num_rows", c_int32),
        ("num_segments", c_int32),
        ("num_groups", c_int32),
        ("num_wanted", c_int32),
        ("low_width", c_int32),
    )

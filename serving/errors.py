"""Serving's errors: branches of the registry's tree, which `registry.domain.errors` draws.

    InvalidRequest                     400
    └── ContextLengthExceeded              context_length_exceeded
    NotFound                           404
    └── BaseNotFound                       base_not_found
    Conflict                           409
    └── BaseMismatch                       base_mismatch
    HotswapError
    └── NotServable                    422 adapter_not_servable
        ├── RankTooHigh                    rank_too_high
        └── ProbeMismatch                  probe_mismatch
    Untrusted                          422
    └── StalePointer                       stale_pointer

Imports no torch: a client that imports this module gets these classes back from a server.
"""

from __future__ import annotations

from hotswap.registry.domain.errors import (
    Conflict,
    HotswapError,
    InvalidRequest,
    NotFound,
    Untrusted,
)


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class BaseNotFound(NotFound):
    code = "base_not_found"


class BaseMismatch(Conflict):
    """The adapter was trained on another base than the one that is served."""

    code = "base_mismatch"


class NotServable(HotswapError):
    """The adapter is stored but this server cannot apply it; the message says why."""

    code = "adapter_not_servable"
    status = 422


class RankTooHigh(NotServable):
    code = "rank_too_high"


class ProbeMismatch(NotServable):
    """The adapter does not do here what it did where it was trained."""

    code = "probe_mismatch"


class StalePointer(Untrusted):
    """An alias's move is older than, or another than, one that was seen before: a replay."""

    code = "stale_pointer"

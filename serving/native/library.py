"""Finds and loads the compiled kernels; says why when they cannot be used here.

A library of other sources than those beside it is refused: it may read other structs or weights in
another order, and nothing else would show it. That `layout` has the structs of the sources, a test
shows.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from functools import cache
from pathlib import Path
from typing import Any

from hotswap.serving.native import layout, sources

PORTABLE, AVX2, AVX_VNNI, AVX512_VNNI, AVX512_BF16, AMX = range(6)
"""Instruction sets in rising speed; `native.h` has the same numbers."""


class KernelsMissing(Exception):
    """The library was not built, or of other sources."""


@cache
def load() -> Any:
    """The library with its functions declared; raises KernelsMissing."""
    files = sorted(Path(__file__).parent.glob("_kernels*.so"))
    if not files:
        raise KernelsMissing(
            "the native kernels were not built when hotswap was installed; install a C compiler "
            "(gcc) and install hotswap again"
        )
    try:
        library = ctypes.CDLL(str(files[-1]), use_errno=True)
    except OSError as error:
        raise KernelsMissing(f"the native kernels cannot be loaded: {error}") from error
    if not _is_of(library, sources.digest()):
        raise KernelsMissing(
            "the native kernels were compiled of other sources than this package has; install "
            "hotswap again"
        )
    _declare(library)
    return library


def _is_of(library: Any, digest: str) -> bool:
    try:
        native_sources = library.native_sources
    except AttributeError:  # a release that did not say
        return False
    native_sources.restype = ctypes.c_char_p
    return bool(native_sources() == digest.encode())


def _declare(library: Any) -> None:
    library.engine_new.restype = ctypes.c_void_p
    library.engine_new.argtypes = [ctypes.POINTER(layout.ModelStruct), ctypes.c_int, ctypes.c_int]
    library.engine_free.restype = None
    library.engine_free.argtypes = [ctypes.c_void_p]
    library.engine_step.restype = None
    library.engine_step.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(layout.StepStruct),
        ctypes.c_int,
    ]


@cache
def levels() -> tuple[int, ...]:
    """The instruction sets that this processor has, in rising speed; raises KernelsMissing."""
    return tuple(level for level in range(AMX + 1) if load().native_has(level))


class NativeEngine:
    """Threads and room for one model's steps. Used by one thread at a time.

    The model, and all it points to, must outlive it.
    """

    def __init__(self, model: layout.ModelStruct, *, max_entries: int, num_threads: int) -> None:
        """Raises KernelsMissing, or OSError when the system gives no memory or no threads."""
        self._library = load()
        self._engine = self._library.engine_new(ctypes.byref(model), max_entries, num_threads)
        if not self._engine:
            error = ctypes.get_errno()
            raise OSError(
                error,
                f"the kernels get no room for {model.max_rows} rows on {num_threads} threads: "
                f"{os.strerror(error)}; lower max_num_batched_tokens or num_threads",
            )
        weakref.finalize(self, self._library.engine_free, self._engine)
        self.level = levels()[-1]
        """The instruction set that is used: the fastest here, or another one of `levels()`."""

    def step(self, step: layout.StepStruct) -> None:
        """Run one forward pass; other Python threads go on meanwhile."""
        self._library.engine_step(self._engine, ctypes.byref(step), self.level)

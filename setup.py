"""The kernels, which are compiled; all else about the package is in pyproject.toml.

They stand here because the library carries the digest of its sources, which only code can compute.
Where they cannot be compiled, serving runs in PyTorch: they are optional.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("serving/native/src")
digest = runpy.run_path("serving/native/sources.py")["digest"]()

setup(
    ext_modules=[
        Extension(
            "hotswap.serving.native._kernels",  # loaded with ctypes
            sources=sorted(map(str, SOURCES.glob("*.c"))),
            depends=["setup.py", *sorted(map(str, SOURCES.glob("*.h")))],
            define_macros=[("SOURCES", f'"{digest}"')],
            extra_compile_args=["-std=gnu11", "-O3", "-Wno-psabi"],
            libraries=["m", "pthread"],
            optional=True,
        )
    ]
)

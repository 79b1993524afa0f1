"""llama.cpp's server, compiled for the processor that it is compiled on.

The source is the one that a release of llama-cpp-python carries; nothing else is fetched. Needs
cmake and a C++ compiler; takes minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

SOURCE = "llama-cpp-python==0.3.36"
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_NATIVE": "ON",
    "LLAMA_BUILD_COMMIT": SOURCE.replace("==", "-"),  # what `llama-server --version` says
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
}


def build(folder: Path) -> Path:
    """`folder` has a virtual environment; its bin/ gets the server. Raises CalledProcessError."""
    if shutil.which("cmake") is None:
        raise SystemExit(
            "llama.cpp-native is compiled with cmake and a C++ compiler: no cmake here"
        )
    with tempfile.TemporaryDirectory() as directory:
        root = _source(folder / "bin" / "python", Path(directory))
        made = Path(directory) / "build"
        options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
        subprocess.run(["cmake", "-S", root, "-B", made, *options], check=True)
        target = ["--target", "llama-server", "--parallel", str(os.cpu_count() or 1)]
        subprocess.run(["cmake", "--build", made, *target], check=True)
        return Path(shutil.copy2(made / "bin" / "llama-server", folder / "bin"))


def _source(python: Path, directory: Path) -> Path:
    name = SOURCE.partition("==")[0]
    command = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name, SOURCE]
    subprocess.run([*command, "-d", directory], check=True)
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")
    (root,) = directory.glob("*/vendor/llama.cpp")
    return root

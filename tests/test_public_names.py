"""The names that the packages export: they are there, and the heavy ones wait until used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

NAMES = {
    "hotswap.registry": [
        "AccessControl", "AdapterRef", "AdapterRegistry", "AdapterVersion", "Adapters",
        "AliasMove", "Aliases", "BaseFingerprint", "Blobs", "Bundle", "Digest", "Events", "Home",
        "HotswapError", "Manifest", "MoveRequest", "PromptFormat", "PushRequest", "Registry",
        "RegistryClient", "RegistrySettings", "SigningKey", "StateRequest", "Versions",
        "open_registry", "pull", "push",
    ],
    "hotswap.serving": [
        "BaseDirectory", "Engine", "Serving", "ServingHome", "ServingSettings", "provide_base",
        "stream_answer",
    ],
    "hotswap.training": [
        "EvalReport", "Run", "TrainingHome", "TrainingSettings", "TrainingSpec",
    ],
}  # fmt: skip


@pytest.mark.parametrize("package", NAMES)
def test_package_exports_these_names(package: str) -> None:
    module = import_module(package)
    assert module.__all__ == NAMES[package]
    assert all(getattr(module, name).__doc__ for name in module.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


def test_importing_the_packages_imports_none_of_it() -> None:
    code = (
        f"import sys, {', '.join(NAMES)}\n"
        "assert not {'torch', 'sqlalchemy', 'pydantic', 'httpx'} & set(sys.modules)\n"
        "from hotswap.registry import RegistryClient\n"
        "assert not {'torch', 'sqlalchemy', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

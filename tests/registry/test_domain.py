"""The registry's words and interfaces are light: importing them loads no machinery."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("boto3", "cryptography", "fastapi", "httpx", "jinja2", "numpy", "sqlalchemy", "torch")

LOADED = """
import sys
import hotswap.registry.domain.protocol
print(*sys.modules)
"""


def test_importing_the_interface_loads_only_the_domain() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    packages = {"hotswap", "hotswap.registry", "hotswap.registry.domain"}
    ours = {name for name in loaded if name.partition(".")[0] == "hotswap"} - packages
    assert {name for name in ours if not name.startswith("hotswap.registry.domain.")} == set()
    assert [name for name in HEAVY if name in loaded] == []

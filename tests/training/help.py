"""What a command prints with --help."""

from __future__ import annotations

import subprocess
import sys


def help_without_torch(command: str) -> str:
    """Of `training.commands.<command>`, in a process that must not import torch for it."""
    code = (
        "import sys; from click.testing import CliRunner\n"
        f"from hotswap.training.commands.{command} import {command}\n"
        f"print(CliRunner().invoke({command}, ['--help']).output); "
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout

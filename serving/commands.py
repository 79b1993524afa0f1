"""Serving's commands: where each stands on the command line, and in which module."""

from __future__ import annotations

from hotswap.registry.commands.table import DAILY, OPERATION
from hotswap.registry.commands.tree import CommandTable, Lazy

_HERE = "hotswap.serving.cli"

TABLE = CommandTable(
    commands={
        "up": Lazy(f"{_HERE}:up", "Run everything in one process: registry and serving.", DAILY),
        "serve": Lazy(f"{_HERE}:serve", "Serve adapters of a registry that runs elsewhere.", DAILY),
        "chat": Lazy(f"{_HERE}:chat", "Talk to MODEL, an adapter or the base.", DAILY),
        "base": Lazy(
            f"{_HERE}:base",
            "Fetch or convert the base NAME if need be, and print its fingerprint as JSON.",
            OPERATION,
        ),
        "adapter export": Lazy(
            f"{_HERE}:export",
            "Write the adapter REF for llama.cpp (OUT ends in .gguf), or merged into its base.",
        ),
    },
    renamed={"export": "adapter export"},
)

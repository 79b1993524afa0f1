"""What the registry's commands share: options, examples, and the way to the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from hotswap.registry.commands.times import time_parameter
from hotswap.registry.domain.protocol import AdapterRegistry
from hotswap.registry.settings import Home, RegistrySettings, read_home, read_section

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def example(*lines: str) -> str:
    """An epilog whose lines click leaves as they are."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def registry_option(function: CommandT) -> CommandT:
    return click.option(
        "--registry",
        "location",
        metavar="WHERE",
        help="The registry's URL, or a store: a directory or s3://bucket/prefix.",
    )(function)


def json_option(function: CommandT) -> CommandT:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def since_option(function: CommandT) -> CommandT:
    return click.option(
        "--since",
        callback=time_parameter("past"),
        metavar="TIME",
        help="Leave out what was before: a time, a day (UTC), or 12h, 30d ago.",
    )(function)


@contextmanager
def open_registry_at(location: str | None) -> Iterator[AdapterRegistry]:
    from hotswap.registry.connect import connect  # a help text needs no HTTP client

    with connect(location, read_section("registry", RegistrySettings), read_home(Home)) as registry:
        yield registry

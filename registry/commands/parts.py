"""What the registry's commands share: options, examples, and the way to the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

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
        metavar="URL",
        help="The registry's URL, or a store: a directory or s3://bucket/prefix.",
    )(function)


def json_option(function: CommandT) -> CommandT:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def utc_time(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    """A callback for options that take a time; one that names no zone is in UTC."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a time; give one like 2026-11-24 or 2026-11-24T18:00:00+00:00"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@contextmanager
def open_registry_at(location: str | None) -> Iterator[AdapterRegistry]:
    from hotswap.registry.connect import connect  # a help text needs no HTTP client

    with connect(location, read_section("registry", RegistrySettings), read_home(Home)) as registry:
        yield registry

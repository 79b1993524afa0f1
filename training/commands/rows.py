"""Options of commands that read a row file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hotswap.training.data.formats.files import CSV
from hotswap.training.data.formats.records import parse_columns
from hotswap.training.data.formats.row_formats import FORMATS

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def columns_option(function: CommandT) -> CommandT:
    """`--columns`, given to the command as a mapping from fields to the file's columns."""
    return click.option(
        "--columns",
        metavar="FIELD=COLUMN,…",
        callback=lambda _ctx, _param, text: None if text is None else parse_columns(text),
        help="Where the fields of a row stand when they have other names; others are left out.",
    )(function)


def target_format_option(
    *, help: str, default: str | None = "messages"
) -> Callable[[CommandT], CommandT]:
    """`--to`; without a default the command says what is written."""
    return click.option(
        "--to",
        "target_format",
        type=click.Choice([*FORMATS, CSV]),
        default=default,
        show_default=default is not None,
        help=help,
    )


def format_option(function: CommandT) -> CommandT:
    return click.option(
        "--from",
        "source_format",
        type=click.Choice(list(FORMATS)),
        help="The format of the rows that are read; without it the first row says so.",
    )(function)

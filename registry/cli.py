"""The `hotswap` command: its root, and the one place where errors become a line and a status.

The upper layers' commands come through the entry-point group `hotswap.command_tables`. A command
is imported only when named, so `hotswap push` never imports torch.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from functools import cache

import click

from hotswap.registry.commands.output import say
from hotswap.registry.commands.table import TABLE
from hotswap.registry.commands.tree import CommandTable, CommandTree
from hotswap.registry.domain.errors import HotswapError

GROUP = "hotswap.command_tables"


@cache
def other_tables() -> Sequence[CommandTable]:
    """What the upper layers bring, in order of name."""
    from importlib.metadata import entry_points  # a command of the registry's need not look

    return [entry.load() for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name)]


cli = click.version_option(package_name="hotswap", prog_name="hotswap")(
    CommandTree(
        TABLE,
        other_tables,
        name="hotswap",
        help="One quantized base model, any number of LoRA adapters, instant rollback.",
        epilog="\b\nExample:\n  hotswap push ./my-adapter team/sql --alias prod\n  hotswap ls",
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
    )
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave the process; an error is one line, never a trace."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        status = cli.main(arguments, prog_name="hotswap", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "hotswap")
        return _fail(f"{error.format_message()} (see `{path} --help`)", error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return 130
    except HotswapError as error:
        return _fail(error.message, 1)
    except OSError as error:
        if error.errno == errno.EPIPE:
            # The reader went away (`hotswap ls | head`); the flush at exit must not say so again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        return _fail(str(error), 1)


def _fail(message: str, status: int) -> int:
    say(f"hotswap: error: {' '.join(message.split())}", err=True)
    return status

"""The `hotswap` command: its root, and the one place where errors become a line and a status.

Commands of the upper layers come through the entry-point group `hotswap.commands` and are
imported only when named, so `hotswap push` never imports torch.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib.metadata import EntryPoint, entry_points, version

import click

from hotswap.registry.commands.access import ACCESS_COMMANDS
from hotswap.registry.commands.adapters import COMMANDS
from hotswap.registry.domain.errors import HotswapError

GROUP = "hotswap.commands"
# What `hotswap --help` says about commands it must not import.
LAZY_HELP = {
    "up": "Run everything in one process: registry and serving.",
    "serve": "Serve adapters on one base model over HTTP.",
    "base": "Look at, fetch or convert a base model.",
    "chat": "Talk to an adapter.",
    "export": "Write an adapter for llama.cpp, or merged into its base.",
    "data": "Check, convert and fix files of training rows.",
    "train": "Train a LoRA adapter.",
    "tune": "Compare learning rates and ranks.",
    "evaluate": "Measure an adapter on a file of questions.",
    "ladder": "Find out whether prompting is enough, or an adapter is worth it.",
}


class LazyGroup(click.Group):
    """Own commands, and commands of other packages that are loaded when they are named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_lazy_commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        entry = _lazy_commands().get(cmd_name)
        return own if own is not None or entry is None else _load(entry)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            own = super().get_command(ctx, name)
            rows.append((name, own.get_short_help_str(80) if own else LAZY_HELP.get(name, "")))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _lazy_commands() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load(entry: EntryPoint) -> click.Command:
    package, extra, *_ = entry.value.split(".")
    try:
        command: click.Command = entry.load()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == package:
            raise  # our own module is missing: a broken installation, not a missing extra
        raise HotswapError(
            f"hotswap {entry.name} needs: pip install 'hotswap[{extra}]' "
            f"(missing module: {error.name})"
        ) from None
    return command


@click.group(
    cls=LazyGroup,
    epilog="\b\nExample:\n  hotswap push ./my-adapter team/sql --alias prod\n  hotswap ls",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(version("hotswap"), prog_name="hotswap")
def cli() -> None:
    """One quantized base model, any number of LoRA adapters, instant rollback."""


for _command in (*COMMANDS, *ACCESS_COMMANDS):
    cli.add_command(_command)


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
    click.echo(f"hotswap: error: {' '.join(message.split())}", err=True)
    return status

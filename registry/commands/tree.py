"""The shape of the command line: which command stands where, and from which module it comes.

A package says so in a `CommandTable`, which imports none of its commands. A command is imported
when it is named, so help, completion and the other commands never wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import click

from hotswap.registry.commands.renamed import announce
from hotswap.registry.domain.errors import HotswapError

ROOT = "hotswap"


@dataclass(frozen=True)
class Lazy:
    """A command that is not imported yet: where it is, and the first sentence of its help.

    `section` is the heading that it stands under; commands of a group have none.
    """

    target: str
    help: str
    section: str = ""


@dataclass(frozen=True)
class Group:
    """Commands under one word. `default` is the one that is meant when none is named."""

    help: str
    section: str
    default: str | None = None


@dataclass(frozen=True)
class CommandTable:
    """What one package brings to the command line; names are paths, such as `alias set`.

    `renamed` maps each old name to the new one. Old names work for one release and are not listed.
    """

    commands: Mapping[str, Lazy]
    groups: Mapping[str, Group] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)


class CommandTree(click.Group):
    """One level of the command line; the tables of other packages are read only when needed."""

    def __init__(
        self,
        own: CommandTable,
        others: Callable[[], Sequence[CommandTable]],
        path: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(**attributes)
        self._own = own
        self._others = others
        self._path = path

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self._children()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        path = f"{self._path} {cmd_name}".strip()
        for table in self._lookup(path):
            if path in table.groups:
                return self._group(path, cmd_name, table.groups[path])
            return _load(path, table.commands[path].target)
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        default = self._default()
        if default and args and args[0] not in (*ctx.help_option_names, *self._children()):
            announce(ctx, f"{ROOT} {self._path}", f"{ROOT} {self._path} {default}")
            args = [default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        old = args[0]
        if not self._path and (new := self._renamed(old)) is not None:
            announce(ctx, f"{ROOT} {old}", f"{ROOT} {new}")
            args = [*new.split(), *args[1:]]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self._children().items():
            sections.setdefault(entry.section or "Commands", []).append((name, entry.help))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def _children(self) -> dict[str, Lazy | Group]:
        """What is listed at this level, in the order of the tables."""
        children: dict[str, Lazy | Group] = {}
        for table in (self._own, *self._others()):
            entries: dict[str, Lazy | Group] = {**table.commands, **table.groups}
            for path, entry in entries.items():
                parent, _, name = path.rpartition(" ")
                if parent == self._path:
                    children[name] = entry
        return children

    def _lookup(self, path: str) -> Sequence[CommandTable]:
        """The table that has the path, in a list of at most one."""
        if path in self._own.commands or path in self._own.groups:
            return [self._own]
        return [t for t in self._others() if path in t.commands or path in t.groups][:1]

    def _renamed(self, name: str) -> str | None:
        if name in self._own.renamed:
            return self._own.renamed[name]
        if self._lookup(name):
            return None
        return next((t.renamed[name] for t in self._others() if name in t.renamed), None)

    def _default(self) -> str | None:
        for table in self._lookup(self._path) if self._path else ():
            return table.groups[self._path].default
        return None

    def _group(self, path: str, name: str, group: Group) -> CommandTree:
        return CommandTree(
            self._own, self._others, path, name=name, help=group.help, no_args_is_help=True
        )


def _load(path: str, target: str) -> click.Command:
    """Raises HotswapError when a package that the command needs is not installed."""
    module, _, attribute = target.partition(":")
    package, plane = module.split(".")[:2]
    try:
        command: click.Command = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == package:
            raise  # our own module is missing: a broken installation, not a missing extra
        raise HotswapError(
            f"{ROOT} {path} needs: pip install '{package}[{plane}]' (missing module: {error.name})"
        ) from None
    return command

"""Old spellings of options, which work for one release and say the new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from hotswap.registry.commands.output import say


def announce(ctx: click.Context, old: str, new: str) -> None:
    """One line for the person who typed the old spelling; nothing where a shell completes it."""
    if not ctx.resilient_parsing:
        say(f"hotswap: note: `{old}` is now `{new}`", err=True)


class RenamedOptions(click.Command):
    """Takes each old option of `renamed` for the new one. The new one may be an argument's name.

    With `json_was_file`, `--json FILE` of old is taken for `--report FILE` where `--json` alone
    would leave a word too many.
    """

    def __init__(
        self,
        *args: Any,
        renamed: Mapping[str, str] | None = None,
        json_was_file: bool = False,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self._renamed = renamed or {}
        self._json_was_file = json_was_file

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = self._in_new_words(ctx, args)
        reported = _with_report(args) if self._json_was_file else args
        if reported == args:
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, list(args))
        except click.UsageError:
            ctx.params.clear()
            announce(ctx, "--json FILE", "--report FILE")
            return super().parse_args(ctx, reported)

    def _in_new_words(self, ctx: click.Context, args: list[str]) -> list[str]:
        kept: list[str] = []
        moved: list[str] = []
        words = iter(args)
        for word in words:
            name, equals, value = word.partition("=")
            new = self._renamed.get(name)
            if new is None:
                kept.append(word)
                continue
            announce(ctx, name, new)
            if new.startswith("--"):
                kept.append(f"{new}{equals}{value}")
            else:
                moved.append(value if equals else next(words, ""))
        return [*kept, *moved]


def _with_report(args: list[str]) -> list[str]:
    """`--json FILE` as `--report FILE`."""
    words = list(args)
    for index, word in enumerate(args):
        is_followed = index + 1 < len(args) and not args[index + 1].startswith("-")
        if word.startswith("--json=") or (word == "--json" and is_followed):
            words[index] = word.replace("--json", "--report", 1)
    return words

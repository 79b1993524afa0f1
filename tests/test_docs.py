"""Every command that a page shows exists, with the options that it is shown with."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest

from hotswap.registry.cli import cli
from tests.prose import ROOT, code_lines, label

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/orders/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMAND = re.compile(r"^(?:\w+=\S+ )*hotswap (?P<words>.+)")


def shown(page: Path) -> list[str]:
    matches = (COMMAND.match(line) for line in code_lines(page.read_text()))
    return [match["words"].strip() for match in matches if match]


def words_of(line: str) -> list[str]:
    """The words of the line's first command, as a shell reads them."""
    reading = shlex.shlex(line, posix=True, punctuation_chars=True)
    reading.whitespace_split = True
    return list(takewhile(lambda word: not set(word) <= set("();<>|&"), reading))


def fault(words: str) -> str | None:
    """What is wrong with a command line, or None."""
    arguments = words_of(words)
    command, context = cli, click.Context(cli, info_name="hotswap")
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        found = command.get_command(context, name)
        if found is None:
            return f"no command {name!r} in `hotswap {words}`"
        command, context = found, click.Context(found, info_name=name, parent=context)
    try:
        command.make_parser(context).parse_args(arguments)
    except click.UsageError as error:
        return f"`hotswap {words}`: {error.format_message()}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=map(label, PAGES))
def test_shown_commands_exist_with_their_options(page: Path) -> None:
    assert [problem for words in shown(page) if (problem := fault(words))] == []


def test_a_command_or_an_option_that_is_not_there_is_a_fault() -> None:
    assert fault("alias set team/sql@prod 2 --why x") is None
    assert fault("alias move team/sql@prod 2") is not None
    assert fault("ls --no-such-option") is not None

"""The command line as a whole: no two commands can be confused, and an option means one thing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import click
import pytest

from hotswap.registry.cli import cli

ONE_MEANING = {
    "--json": "boolean",
    "--report": "path",
    "--base": "text",
    "--fingerprint": "path",
    "--out": "path",
    "--registry": "text",
    "--system-prompt": "text",
    "--max-rows": "integer range",
    "--dry-run": "boolean",
    "--sign-key": "path",
    "--wait": "boolean",
}


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Every visible command that does something, with its path."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


def options() -> Iterator[tuple[str, str, click.Option]]:
    """Path, spelling and option."""
    for path, command in commands():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield from ((path, spelling, parameter) for spelling in parameter.opts)


def differ_by_a_letter(one: str, other: str) -> bool:
    if len(one) > len(other):
        one, other = other, one
    if len(one) == len(other):
        return sum(a != b for a, b in zip(one, other, strict=True)) == 1
    return any(one == other[:i] + other[i + 1 :] for i in range(len(other)))


def test_every_command_and_option_has_help() -> None:
    assert len(list(commands())) > 40
    assert [path for path, command in commands() if not command.help] == []
    assert [(path, name) for path, name, option in options() if not option.help] == []


def test_no_two_commands_differ_by_a_letter() -> None:
    paths = [path for path, _ in commands()]
    assert [pair for pair in combinations(paths, 2) if differ_by_a_letter(*pair)] == []


@pytest.mark.parametrize(("spelling", "kind"), ONE_MEANING.items(), ids=ONE_MEANING)
def test_an_option_takes_the_same_everywhere(spelling: str, kind: str) -> None:
    kinds = defaultdict(list)
    for path, name, option in options():
        if name == spelling:
            kinds[option.type.name].append(path)
    assert list(kinds) == [kind], dict(kinds)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("hotswap al", "alias"), ("hotswap alias s", "set"), ("hotswap rollback --wh", "--why")],
)
def test_a_shell_completes_commands_and_options(words: str, wanted: str) -> None:
    environment = {
        **os.environ,
        "_HOTSWAP_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    command = [str(Path(sys.executable).with_name("hotswap"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"plain,{wanted}"]
    assert done.stderr == ""

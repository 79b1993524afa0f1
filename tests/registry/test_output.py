"""What others wrote cannot forge a line of a command's output, nor tell the terminal what to do."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from hotswap.registry.commands.output import visible, visible_json, visible_lines
from hotswap.registry.domain.manifest import Manifest
from tests.registry.bundles import make_bundle
from tests.registry.test_cli import Shell, shell

__all__ = ["shell"]

HOSTILE = (
    "fine\nsigned: by ed25519:AAAA\r\x1b[2J\x1b]0;title\x07\x9b31m\u202etxt\u2028end\x7f\u2066"
)
SHOWN = (
    "fine\\x0asigned: by ed25519:AAAA\\x0d\\x1b[2J\\x1b]0;title\\x07\\x9b31m"
    "\\u202etxt\\u2028end\\x7f\\u2066"
)


def acts_on_terminals(text: str) -> list[str]:
    """Controls but the end of a line, and what reorders or separates lines."""
    return [
        character
        for character in text
        if (unicodedata.category(character) in ("Cc", "Zl", "Zp") and character != "\n")
        or unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI")
    ]


def test_a_line_shows_what_a_terminal_would_act_upon() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible("héllo, wörld 你好 🙂") == "héllo, wörld 你好 🙂"
    assert visible_lines("a\nb\x1b") == "a\nb\\x1b"


def test_json_keeps_the_value_and_escapes_it() -> None:
    text = visible_json(json.dumps({"a": HOSTILE}, ensure_ascii=False, indent=1))
    assert json.loads(text) == {"a": HOSTILE}
    assert acts_on_terminals(text) == []


@pytest.fixture
def pushed(shell: Shell) -> Shell:
    """A version and a move with hostile texts wherever a pusher may write one."""
    for seed in (1, 2):
        make_bundle(shell.root / f"v{seed}", seed)
        stated = ("--description", HOSTILE, "--tag", f"note={HOSTILE}", "--run", "r1")
        shell.ok("push", f"v{seed}", "team/sql", *stated, "--alias", "prod", "--why", HOSTILE)
    return shell


@pytest.mark.parametrize(
    "command",
    [
        "ls",
        "ls team/sql",
        "ls team/sql --long",
        "ls --filter number>=1",
        "show team/sql",
        "alias history team/sql@prod",
        "show team/sql --card",
        "adapter diff team/sql:1 team/sql:2",
        "audit",
        "store events",
    ],
)
def test_no_command_prints_what_a_pusher_wrote_as_it_is(
    pushed: Shell, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], ["--json"]):
        if options and "--card" in command:
            continue
        printed = pushed.ok(*command.split(), *options)
        assert acts_on_terminals(printed) == []
        assert not any(line.startswith("signed: by") for line in printed.splitlines())


def test_the_stored_text_is_what_was_pushed(pushed: Shell) -> None:
    shown = json.loads(pushed.ok("show", "team/sql", "--json"))
    assert shown["manifest"]["description"] == HOSTILE
    assert Manifest.model_validate(shown["manifest"]).tags == {"note": HOSTILE}


def test_an_error_shows_what_a_terminal_would_act_upon(shell: Shell) -> None:
    assert acts_on_terminals(shell.fails("show", "a\x1b[2J")) == []


def test_every_command_prints_by_one_function() -> None:
    commands = Path(__file__).parents[2] / "registry/commands"
    printing = {
        path.name: [line for line in path.read_text().splitlines() if "click.echo(" in line]
        for path in commands.glob("*.py")
        if path.name != "output.py"
    }
    for lines in printing.values():
        assert all("visible" in line or '"  ".join(cells)' in line for line in lines)

"""Prints text that others wrote: what a terminal would act upon is shown as its escape."""

from __future__ import annotations

import re

import click

# C0 and C1 controls with DEL, what reorders text, line and paragraph separators, lone surrogates.
_ACTED_UPON = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text on one line: no character of it moves the cursor, ends the line or turns the text
    around."""
    return _ACTED_UPON.sub(lambda match: _escape(match.group()), text)


def visible_lines(text: str) -> str:
    """As `visible`, line by line."""
    return "\n".join(map(visible, text.split("\n")))


def visible_json(text: str) -> str:
    """JSON of the same value; its own line ends stay."""
    return re.sub("[^\n]+", lambda line: _ACTED_UPON.sub(_as_json, line.group()), text)


def say(line: str = "", *, err: bool = False) -> None:
    """Print one line. Every command of the registry prints what is stored with it."""
    click.echo(visible(line), err=err)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _as_json(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"

"""`hotswap data`: the group of commands that look at row files and change them."""

from __future__ import annotations

import click

from hotswap.registry.commands.parts import example
from hotswap.training.commands.check import check
from hotswap.training.commands.convert import convert
from hotswap.training.commands.drift import drift
from hotswap.training.commands.fix import fix, split_rows
from hotswap.training.commands.from_traffic import from_traffic


@click.group(epilog=example("hotswap data convert train.csv train.jsonl"))
def data() -> None:
    """Check, convert and fix files of training rows."""


_COMMANDS = {
    "check": check,
    "convert": convert,
    "drift": drift,
    "fix": fix,
    "from-traffic": from_traffic,
    "split": split_rows,
}
for _name, _command in _COMMANDS.items():
    data.add_command(_command, _name)

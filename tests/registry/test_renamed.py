"""Old spellings of options work for one release and say the new one."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from hotswap.registry.commands.renamed import RenamedOptions


@click.command(
    cls=RenamedOptions, renamed={"--rows": "--max-rows", "--at": "TIME"}, json_was_file=True
)
@click.argument("data")
@click.argument("time", default="-")
@click.option("--max-rows", type=int, default=0)
@click.option("--json", "as_json", is_flag=True)
@click.option("--report", default="-")
def ask(data: str, time: str, max_rows: int, as_json: bool, report: str) -> None:
    click.echo(f"{data} {time} {max_rows} {as_json} {report}")


@pytest.mark.parametrize(
    ("typed", "meant", "said"),
    [
        ("d --max-rows 3", "d - 3 False -", ""),
        ("d --rows 3", "d - 3 False -", "`--rows` is now `--max-rows`"),
        ("d --rows=3", "d - 3 False -", "`--rows` is now `--max-rows`"),
        ("--at noon d", "d noon 0 False -", "`--at` is now `TIME`"),
        ("d noon --json", "d noon 0 True -", ""),
        ("--json d noon", "d noon 0 True -", ""),
        ("d noon --json r", "d noon 0 False r", "`--json FILE` is now `--report FILE`"),
        ("--json r d noon", "d noon 0 False r", "`--json FILE` is now `--report FILE`"),
    ],
)
def test_old_spelling_means_the_new_one(typed: str, meant: str, said: str) -> None:
    done = CliRunner().invoke(ask, typed.split())
    assert (done.exit_code, done.stdout) == (0, f"{meant}\n"), done.output
    assert done.stderr == (f"hotswap: note: {said}\n" if said else "")


def test_old_spelling_is_not_in_the_help() -> None:
    assert "--rows" not in CliRunner().invoke(ask, ["--help"]).stdout.replace("--max-rows", "")

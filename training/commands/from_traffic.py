"""`hotswap data from-traffic`: a server's request log to rows."""

from __future__ import annotations

from datetime import datetime
from itertools import chain
from pathlib import Path

import click

from hotswap.registry.commands.parts import example, since_option
from hotswap.registry.commands.renamed import RenamedOptions
from hotswap.training.commands.rows import target_format_option
from hotswap.training.data.formats.files import write_examples
from hotswap.training.data.traffic import Answers, Choice, collect, iter_served
from hotswap.training.errors import InvalidData

_OWNER_ONLY = 0o600


@click.command(
    epilog=example(
        "hotswap data from-traffic ~/.hotswap/requests --adapter 'team/orders' --out ask.jsonl",
        "hotswap data from-traffic log.jsonl --since 2026-11-20 --answers served --out a.jsonl",
    ),
    cls=RenamedOptions,
    renamed={"--output": "--out"},
)
@click.argument("logs", metavar="LOG...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The file that is written."
)
@click.option(
    "--answers",
    type=click.Choice([each.value for each in Answers]),
    default=Answers.EMPTY.value,
    show_default=True,
    help="empty: the answers are yet to be written. served: take what the model answered.",
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="PATTERN",
    help="Only requests of these names; may be given more than once.",
)
@since_option
@click.option(
    "--keep-truncated",
    is_flag=True,
    help="With --answers served: also what was cut off.",
)
@click.option(
    "--redact",
    is_flag=True,
    help="Write [e-mail], [card] and [phone] in the place of personal data.",
)
@target_format_option(help="The format that is written.")
def from_traffic(
    logs: tuple[Path, ...],
    out: Path,
    answers: str,
    adapters: tuple[str, ...],
    since: datetime | None,
    keep_truncated: bool,
    redact: bool,
    target_format: str,
) -> None:
    """Make a dataset of what a server's request log keeps.

    LOG is a file of the log, or a directory with such files. What a model answered is no label, so
    answers are left empty for somebody to write them (`hotswap train` refuses empty ones), unless
    --answers served takes them. Earlier answers of a conversation are context and are not learnt.
    Left out and counted: duplicates but for case and white space, served answers that max_tokens
    cut off, prompts of /v1/completions that are rendered templates. OUT is for its owner alone.
    """
    choice = Choice(adapters or ("*",), since, Answers(answers), keep_truncated, redact)
    traffic = collect(chain.from_iterable(map(iter_served, logs)), choice)
    for reason, count in traffic.left_out.items():
        if count:
            click.echo(f"left out: {count} {reason}")
    if not traffic.examples:
        raise InvalidData(f"none of the {traffic.num_read} rows of the log is left")
    num_rows = write_examples(out, traffic.examples, target_format, mode=_OWNER_ONLY)
    click.echo(f"{num_rows} of {traffic.num_read} rows written to {out} ({target_format})")
    for kind, count in sorted(traffic.personal.items()):
        done = "redacted" if redact else "kept; --redact takes it out"
        click.echo(
            f"warning: {count} rows have what looks like personal data: {kind} ({done})", err=True
        )
    if choice.answers is Answers.SERVED:
        click.echo(
            "warning: the answers are the model's own, right or wrong; correct them before a model"
            " is trained on them",
            err=True,
        )

"""`hotswap data fix` and `hotswap data split`: row files changed and cut on request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from hotswap.registry.commands.options import model_options
from hotswap.registry.commands.parts import example
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.settings import read_home
from hotswap.training.commands.rows import columns_option, format_option, target_format_option
from hotswap.training.data.example import Example
from hotswap.training.data.fixes import Fixes, clean, even_out
from hotswap.training.data.formats.files import CSV, format_of, iter_examples, write_examples
from hotswap.training.data.splitting import cut
from hotswap.training.data.spool import Spool
from hotswap.training.settings import TrainingHome

_PARTS = ("train", "validation", "test")

_target_option = target_format_option(
    default=None,
    help="The format that is written; that of IN by default, JSON lines in place of CSV.",
)
_seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Decides what is left to chance."
)


@click.command(
    epilog=example(
        "hotswap data fix train.jsonl fixed.jsonl --trim --dedup near",
        "hotswap data fix train.csv even.jsonl --balance 1.5 --columns question=text,answer=label",
    )
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@model_options(Fixes)
@_seed_option
@_target_option
@format_option
@columns_option
def fix(
    source: Path,
    target: Path,
    seed: int,
    target_format: str | None,
    source_format: str | None,
    columns: dict[str, str] | None,
    **options: Any,
) -> None:
    """Write the rows of IN to OUT with the fixes that are named.

    They are made in this order: trim, lower, dedup, balance. `hotswap train` takes the same
    options, and lets the server do to requests what trim and lower do to questions.
    """
    fixes = Fixes.parse({name: value for name, value in options.items() if value is not None})
    with ExitStack() as spools:

        def keep(rows: Iterable[Example]) -> Sequence[Example]:
            return spools.enter_context(Spool(read_home(TrainingHome).row_cache, rows))

        rows = keep(iter_examples(source, columns=columns, row_format=source_format))
        cleaned, applied = clean(rows, fixes, keep)
        evened, balanced = even_out(cleaned, fixes, seed, keep)
        if not (applied or balanced):
            raise InvalidRequest("no fix is named; name --trim, --lower, --dedup or --balance")
        written = target_format or format_of(source, columns=columns, row_format=source_format)
        num_rows = write_examples(target, evened, written)
        for done in (*applied, *balanced):
            about = ", ".join(str(value) for key, value in done.items() if key != "num_rows")
            click.echo(f"{about}: {done['num_rows']} rows")
        click.echo(f"{num_rows} of {len(rows)} rows written to {target} ({written})")


@click.command(
    epilog=example("hotswap data split rows.jsonl parts --validation 0.1 --test 0.1 --seed 7")
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="The share of rows to validate on.",
)
@click.option(
    "--test",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="The share of rows to test on.",
)
@_seed_option
@_target_option
@format_option
@columns_option
def split_rows(
    source: Path,
    directory: Path,
    validation: float,
    test: float,
    seed: int,
    target_format: str | None,
    source_format: str | None,
    columns: dict[str, str] | None,
) -> None:
    """Cut IN into train, validation and test files in DIRECTORY.

    Where answers are classes, each class has its share in every part. Duplicates and
    near-duplicates never stand in two parts.
    """
    if validation + test >= 1:
        raise InvalidRequest("--validation and --test leave no rows to train on; lower them")
    with Spool(
        read_home(TrainingHome).row_cache,
        iter_examples(source, columns=columns, row_format=source_format),
    ) as rows:
        if not rows:
            raise InvalidRequest(f"{source} has no rows")
        written = target_format or format_of(source, columns=columns, row_format=source_format)
        suffix = CSV if written == CSV else "jsonl"
        directory.mkdir(parents=True, exist_ok=True)
        for name, part in zip(_PARTS, cut(rows, (validation, test), seed), strict=True):
            if part:
                chosen = (rows[index] for index in part)
                write_examples(directory / f"{name}.{suffix}", chosen, written)
            click.echo(f"{name}: {len(part)} rows")

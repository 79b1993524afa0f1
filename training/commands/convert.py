"""`hotswap data convert`: a row file in another format."""

from __future__ import annotations

from pathlib import Path

import click

from hotswap.registry.commands.parts import example
from hotswap.training.commands.rows import columns_option, format_option, target_format_option
from hotswap.training.data.formats.files import iter_examples, write_examples


@click.command(
    epilog=example(
        "hotswap data convert chats.jsonl gemini.jsonl --to gemini",
        "hotswap data convert train.csv train.jsonl --columns question=text,answer=category",
    )
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@target_format_option(
    help="The format of OUT: JSON lines, or CSV with the columns question and answer."
)
@format_option
@columns_option
def convert(
    source: Path,
    target: Path,
    target_format: str,
    source_format: str | None,
    columns: dict[str, str] | None,
) -> None:
    """Write the rows of IN to OUT in another format.

    IN is read row by row, as JSON lines, one JSON array or CSV with a header. A row that the
    format cannot say (several turns as question and answer, an answer that is not to be learnt) is
    an error, and OUT is then not written.
    """
    examples = iter_examples(source, columns=columns, row_format=source_format)
    num_rows = write_examples(target, examples, target_format)
    click.echo(f"{num_rows} rows written to {target} ({target_format})")

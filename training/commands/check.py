"""`hotswap data check`: row files to a report."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from hotswap.registry.commands.parts import example
from hotswap.registry.commands.renamed import RenamedOptions
from hotswap.registry.settings import read_home
from hotswap.training.commands.reports import give_report, report_options
from hotswap.training.commands.rows import columns_option
from hotswap.training.data.formats.files import iter_examples
from hotswap.training.data.spool import Spool
from hotswap.training.settings import TrainingHome
from hotswap.training.spec import TrainingSpec

_DEFAULT = TrainingSpec.model_fields


@click.command(
    epilog=example(
        "hotswap data check orders.jsonl --validation held-back.jsonl --html report.html",
        "hotswap data check train.csv --test test.csv --columns question=text,answer=category",
    ),
    cls=RenamedOptions,
    json_was_file=True,
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--validation", type=click.Path(path_type=Path), help="Rows that are held back.")
@click.option("--test", type=click.Path(path_type=Path), help="Rows that are tested with.")
@click.option("--base", default=_DEFAULT["base"].default, show_default=True, help="Whose tokens.")
@click.option("--no-base", is_flag=True, help="Count no tokens; needs no base model.")
@click.option(
    "--max-length",
    type=click.IntRange(min=2),
    default=_DEFAULT["max_length"].default,
    show_default=True,
    help="The most tokens a row may have in training.",
)
@click.option("--system-prompt", help="As it is given to `hotswap train`; it counts in lengths.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@report_options
@columns_option
def check(
    data: Path,
    validation: Path | None,
    test: Path | None,
    base: str,
    no_base: bool,
    max_length: int,
    system_prompt: str | None,
    strict: bool,
    as_json: bool,
    report_file: Path | None,
    html_file: Path | None,
    columns: dict[str, str] | None,
) -> int:
    """Look for what is wrong with rows before they are trained on.

    Duplicates, near-duplicates, contradictions, rows that are held back and trained on too, uneven
    classes, missing labels, spellings, white space, letter case, lengths, rows that the base's chat
    template cannot render, personal data. Rows lie in the cache on disk meanwhile. Errors would
    stop `hotswap train`, and the exit status is then 1; --strict makes it 1 for warnings.
    """
    paths = {"train": data, "validation": validation, "test": test}
    home = read_home(TrainingHome)
    with ExitStack() as spools:
        files = {
            role: (
                path,
                spools.enter_context(Spool(home.row_cache, iter_examples(path, columns=columns))),
            )
            for role, path in paths.items()
            if path is not None
        }

        from hotswap.serving.base_model import provide_base, quiet_libraries
        from hotswap.training.data.reports.rows import report_on
        from hotswap.training.pages.data import as_html

        quiet_libraries()
        model = None if no_base else provide_base(base, home.bases)
        prompt = None if model is None else model.prompt_format(system_prompt=system_prompt)
        report = report_on(files, model, prompt, max_length)
    if not as_json:
        for line in report.lines():
            click.echo(line)
    give_report(report.as_json(), as_json=as_json, report_file=report_file)
    if html_file is not None:
        html_file.write_text(as_html(report), encoding="utf-8")
    return int(bool(report.num_errors or (strict and report.num_warnings)))

"""`hotswap ladder`: the same rows asked with better and better prompts, then of the adapter.

Torch is imported only when the asking starts, so that help is quick.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotswap.registry.commands.parts import example, registry_option
from hotswap.registry.commands.renamed import RenamedOptions
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.settings import read_home
from hotswap.training.commands.reports import give_report, print_status, report_options
from hotswap.training.commands.rows import columns_option
from hotswap.training.evaluation.session import RegistryOnDemand, base_of, open_session
from hotswap.training.runs.record import RECORD_FILE
from hotswap.training.settings import TrainingHome

if TYPE_CHECKING:
    from hotswap.training.ladder.report import LadderReport
    from hotswap.training.runs.run import Run

LADDER_FILE, PAGE_FILE = "ladder.json", "ladder.html"


@click.command(
    epilog=example(
        "hotswap ladder test.jsonl --run 20261124T101500-a1b2c3 --system-prompt-file it.txt",
        "hotswap ladder rows.jsonl --system-prompt 'Order to JSON.' --goal 0.9",
    ),
    cls=RenamedOptions,
    json_was_file=True,
    renamed={
        "--rows": "--max-rows",
        "--system": "--system-prompt",
        "--system-file": "--system-prompt-file",
    },
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--train", type=click.Path(path_type=Path), help="The rows that prompts may show.")
@click.option(
    "--adapter", metavar="DIR|REF", help="What is compared with prompting: a run, PEFT, a version."
)
@click.option(
    "--run",
    "run_name",
    metavar="RUN",
    help="A finished run: its adapter and rows are used; it keeps ladder.json, its adapter the"
    " summary.",
)
@click.option(
    "--system-prompt", metavar="TEXT", help="A better system prompt, in place of the rows' own."
)
@click.option("--system-prompt-file", type=click.Path(path_type=Path), help="It, from a file.")
@click.option("--k", default=8, show_default=True, type=click.IntRange(0), help="Examples shown.")
@click.option(
    "--max-rows", default=300, show_default=True, type=click.IntRange(1),
    help="Ask at most so many, a seeded sample.",
)  # fmt: skip
@click.option("--metric", metavar="NAME", help="What is judged by; chosen by task without it.")
@click.option(
    "--margin", default=0.02, show_default=True, type=click.FloatRange(0, 1),
    help="How much better than a prompt an adapter must be to be worth it.",
)  # fmt: skip
@click.option(
    "--goal", type=click.FloatRange(0, 1), help="Without an adapter: the score that is enough."
)
@click.option(
    "--concurrency", default=1, show_default=True, type=click.IntRange(1),
    help="Requests at a time; with 1 a latency is what a lone user waits for.",
)  # fmt: skip
@click.option(
    "--base", "base_name", metavar="MODEL", help="The base model; default: the run's or adapter's."
)
@click.option("--max-tokens", type=click.IntRange(1), help="The most tokens of an answer.")
@click.option("--seed", default=0, show_default=True, help="Of samples, examples and tests.")
@columns_option
@report_options
@registry_option
def ladder(
    data: Path,
    train: Path | None,
    adapter: str | None,
    run_name: str | None,
    system_prompt: str | None,
    system_prompt_file: Path | None,
    k: int,
    max_rows: int,
    metric: str | None,
    margin: float,
    goal: float | None,
    concurrency: int,
    base_name: str | None,
    max_tokens: int | None,
    seed: int,
    columns: dict[str, str] | None,
    as_json: bool,
    report_file: Path | None,
    html_file: Path | None,
    location: str | None,
) -> None:
    """Find out whether prompting is enough, or an adapter is worth it.

    The rows of DATA are asked of the base as they are, with a better system prompt, with k
    training rows as examples, with the k most like each question (BM25), and of the adapter.
    Rows that are nearly training rows are left out. Without --train and --run prompts show rows
    of DATA that are not asked.
    """
    system = _system_prompt(system_prompt, system_prompt_file)
    with ExitStack() as stack:
        registry = RegistryOnDemand(location, stack)
        home = read_home(TrainingHome)
        run, adapter = _adapter(adapter, run_name, train, home.runs)
        if adapter is not None and goal is not None:
            raise InvalidRequest(
                "--goal judges prompts without an adapter; with one, --margin says what it is"
                " judged by"
            )
        from hotswap.serving.base_model import provide_base, quiet_libraries

        quiet_libraries()
        from hotswap.training.evaluation.evaluate import EvalSet
        from hotswap.training.ladder.pool import Pool
        from hotswap.training.ladder.report import make_ladder_report, metric_named
        from hotswap.training.ladder.rows import LadderRows
        from hotswap.training.ladder.rungs import climb, make_rungs

        trained_on = None if run is None else run.record.spec["base"]
        base = provide_base(base_name or trained_on or base_of(adapter, registry), home.bases)
        rows = LadderRows.read(data, train, run, columns=columns, num_rows=max_rows, seed=seed)
        if rows.num_left_out:
            print_status(
                f"{rows.num_left_out} rows of {data.name} are left out: nearly training rows"
            )
        asked = EvalSet.of(rows.asked, data, base, max_tokens=max_tokens)
        judged = metric_named(metric, asked.metrics)
        session = stack.enter_context(open_session(base, registry, print_status))
        engine = session.engine
        target = None if adapter is None else session.target(adapter)
        plain = engine.base(None if target is None else target.prompt)
        rungs = make_rungs(plain, target, Pool(rows.train, seed), k=k, system=system)
        climbed = climb(engine, base, asked, rungs, concurrency=concurrency, notify=print_status)
        report = make_ladder_report(
            climbed, asked.metrics, judged, margin=margin, goal=goal, seed=seed
        )
        weights = None if target is None else engine.weights_digest(target)
        about: dict[str, Any] = {
            "base": base.model_id,
            "quantization": engine.quantization,
            "adapter": None if adapter is None else adapter_name(adapter, run),
            "weights": None if weights is None else str(weights),
            "data": asked.about(),
            "num_left_out": rows.num_left_out,
            "num_train_rows": len(rows.train),
            "system_prompt": system,
            "k": k,
            "margin": margin,
            "goal": goal,
            "seed": seed,
        }
    if not as_json:
        print_ladder(report, about, concurrency)
    whole = keep(report, about, concurrency, run)
    give_report(whole, as_json=as_json, report_file=report_file)
    if html_file is not None:
        write_page(html_file, report, about, concurrency)


def print_ladder(report: LadderReport, about: dict[str, Any], concurrency: int) -> None:
    at_a_time = "one request" if concurrency == 1 else f"{concurrency} requests"
    click.echo(
        f"{report.num_rows} rows of {about['data']['file_name']}, base {about['base']}"
        f" ({about['quantization']}), {at_a_time} at a time"
    )
    wide = max(len(rung.label) for rung in report.rungs)
    click.echo(
        f"{'':<{wide}}  {report.metric:>24}  {'loss':>7}  {'tokens a request':>18}"
        f"  {'latency p50':>11}  {'p95':>7}"
    )
    for rung in report.rungs:
        score = rung.metrics[report.metric]
        tokens = f"{rung.prompt_tokens:.0f} + {rung.answer_tokens:.1f}"
        click.echo(
            f"{rung.label:<{wide}}  {score.value:8.3f} ({score.low:.3f}–{score.high:.3f})"
            f"  {rung.metrics['loss'].value:7.3f}  {tokens:>18}"
            f"  {1000 * rung.median_latency_s:8.0f} ms  {1000 * rung.p95_latency_s:4.0f} ms"
        )
    for rung in report.rungs:
        if rung.num_trimmed:
            click.echo(
                f"{rung.label}: {rung.num_trimmed} prompts were too long for the context and show"
                f" fewer of the {rung.k} examples, at least {rung.min_examples}"
            )
        if rung.difference is not None:
            e = rung.difference.estimate
            click.echo(
                f"the adapter beside {rung.label}: {e.value:+.3f} ({e.low:+.3f} to {e.high:+.3f}),"
                f" p = {rung.difference.p_value:.3g}"
            )
    for cost in report.costs:
        click.echo(cost)
    click.echo(f"verdict: {report.verdict.text}")


def keep(
    report: LadderReport,
    about: dict[str, Any],
    concurrency: int,
    run: Run | None,
) -> dict[str, Any]:
    """The whole report. The run keeps it, and the run's adapter states the scores and the summary,
    which are of the weights that `about` names."""
    whole: dict[str, Any] = {**about, "concurrency": concurrency, **report.as_json()}
    if run is not None:
        bundle = run.state_metrics(report.values(), {"ladder": {**about, **report.summary()}})
        manifest = bundle.manifest(lineage=run.lineage)
        whole["manifest_digest"] = str(manifest.digest)
        _write(run.directory / LADDER_FILE, whole)
        write_page(run.directory / PAGE_FILE, report, about, concurrency)
        print_status(f"kept in {run.directory / LADDER_FILE}, and with the version that comes of:")
        print_status(f"  hotswap push {run.adapter} NAME --run {run.id}")
    return whole


def write_page(path: Path, report: LadderReport, about: dict[str, Any], concurrency: int) -> None:
    from hotswap.training.pages.ladder import page

    facts = {**about, **about["data"]}
    facts.pop("data")
    path.write_text(page(report, facts.pop("file_name"), facts, concurrency), encoding="utf-8")


def adapter_name(adapter: str, run: Run | None) -> str:
    """What a report calls the adapter: no path, which would name the machine."""
    if run is not None:
        return run.id
    return Path(adapter).name if Path(adapter).is_dir() else adapter


def _write(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _system_prompt(text: str | None, path: Path | None) -> str | None:
    if path is None:
        return text
    if text is not None:
        raise InvalidRequest("give --system-prompt or --system-prompt-file, not both")
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path.name} is not UTF-8: {error.reason}") from None


def _adapter(
    adapter: str | None, run_name: str | None, train: Path | None, runs: Path
) -> tuple[Run | None, str | None]:
    """The run that keeps the result, and the adapter: a directory or a reference."""
    if run_name is not None:
        if adapter is not None:
            raise InvalidRequest("--run names the adapter already; leave out --adapter")
        from hotswap.training.runs.run import Run

        run = Run.find(runs, run_name)
        if not run.adapter.is_dir():
            raise InvalidRequest(
                f"run {run.id} has no adapter, it is {run.record.state}; go on with it:"
                f" hotswap train --resume {run.id}"
            )
        return run, str(run.adapter)
    if adapter is None:
        return None, None
    if train is None:
        raise InvalidRequest(
            "--adapter needs --train FILE, the rows it was trained on, so that none of them is"
            " asked; or name its run with --run"
        )
    is_run = (Path(adapter) / RECORD_FILE).is_file()
    return None, str(Path(adapter) / "adapter") if is_run else adapter

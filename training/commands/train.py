"""`hotswap train`: options to a training, its figures to the terminal.

Torch is imported only when a training starts, so that help is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotswap.registry.commands.options import model_options
from hotswap.registry.commands.parts import registry_option
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.settings import read_home
from hotswap.training.commands.destination import Destination
from hotswap.training.commands.examination import Examination, read_requirement
from hotswap.training.commands.preview import show_masks, show_plan
from hotswap.training.commands.reports import require_met
from hotswap.training.commands.setup import Setup, spec_values
from hotswap.training.settings import TrainingHome
from hotswap.training.spec import TrainingSpec

if TYPE_CHECKING:
    from hotswap.registry.bundles.bundle import Bundle
    from hotswap.training.loop.outcome import Outcome
    from hotswap.training.runs.run import Run
    from hotswap.training.runs.trackers import Tracker


@click.command(
    epilog="\b\nExample:\n"
    "  hotswap train orders.jsonl --out orders-v1 --epochs 3 --system-prompt 'Order to JSON.'",
)
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option(
    "--resume",
    metavar="RUN",
    help="Go on with a run that was interrupted: its id or directory.",
)
@click.option(
    "--track",
    "trackers",
    multiple=True,
    type=click.Choice(("tensorboard", "mlflow", "wandb")),
    help="Also send the figures there, through its own package. May be given more than once.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where the adapter is written; it must not exist. Without it, in the run's directory.",
)
@click.option("--push", "name", metavar="NAME", help="Also push the adapter under this name.")
@click.option("--alias", help="With --push: point this alias to the new version.")
@click.option(
    "--evaluate",
    "evaluated",
    type=click.Path(path_type=Path),
    help="Ask the adapter these rows in a fresh engine; hotswap.json states the metrics.",
)
@click.option(
    "--require",
    "required",
    metavar="EXPR",
    help="With --evaluate: what must hold (em >= 0.9 and em >= prod.em) before the alias moves,"
    " which is `candidate` when --alias is not given. The version is pushed in any case.",
)
@registry_option
@click.option(
    "--plan",
    is_flag=True,
    help="Show parameters by layer, memory and time in place of training.",
)
@click.option(
    "--show-mask",
    "num_masks",
    type=click.IntRange(min=1),
    is_flag=False,
    flag_value=3,
    metavar="[N]",
    help="Show N rows (3) with the tokens that are learnt between ⟦ and ⟧ in place of training.",
)
@click.option(
    "--mask-file",
    type=click.Path(path_type=Path),
    help="Write what --show-mask shows to this new file; every row when no N is given.",
)
@model_options(TrainingSpec, skip=frozenset({"data"}), names={"num_epochs": "epochs"})
def train(
    data: Path | None,
    resume: str | None,
    trackers: tuple[str, ...],
    out: Path | None,
    name: str | None,
    alias: str | None,
    evaluated: Path | None,
    required: str | None,
    location: str | None,
    plan: bool,
    num_masks: int | None,
    mask_file: Path | None,
    **options: Any,
) -> None:
    """Train a LoRA adapter on DATA, a file of rows.

    Rows are {"question": …, "answer": …}, {"messages": [{"role", "content"}, …]} or in another
    format that `hotswap data convert` reads, as JSON lines, a JSON array or CSV. The data is
    checked before anything is computed. The result is a PEFT directory that `hotswap push` takes.
    Ctrl-C ends the run after the step it is in; --resume goes on to the same weights.
    `torchrun --nproc-per-node N -m -- hotswap.training DATA …` shares it out.
    """
    destination = Destination.read(out, name, alias, location)
    if data is None and resume is None:
        raise InvalidRequest("give DATA, or --resume RUN to go on with a run")
    requirement = read_requirement(required, evaluated)
    given = spec_values(data, options)
    spec = TrainingSpec.parse(given) if resume is None else None

    from hotswap.serving.base_model import quiet_libraries

    quiet_libraries()
    chosen = _installed(trackers)
    destination.require_absent()
    home = read_home(TrainingHome)
    known = None
    if resume is not None:
        known, spec = _resumed(resume, home.runs, given)
    assert spec is not None, "made from the options or from the run"
    setup = Setup.make(spec, home)
    shows_masks = num_masks is not None or mask_file is not None
    if shows_masks:
        show_masks(setup.prepared.train, setup.base, num_masks, mask_file)
    setup.require_usable_rows()
    examination = None
    if evaluated is not None:
        examination = Examination.prepare(evaluated, requirement, name, setup.base)
    num_train, num_validation = len(setup.prepared.train), len(setup.prepared.validation)
    click.echo(f"{num_train} rows to train on, {num_validation} to validate")
    if plan:
        show_plan(spec, setup.base, setup.prepared)
    if plan or shows_masks:
        return
    trained = _carry_out(setup, known, home, chosen)
    if trained is None:  # process 0 of torchrun's has the adapter
        return
    run, outcome, bundle = trained
    verdict = None
    if examination is not None:
        bundle, verdict = examination.hold(run, location)
    bundle = destination.place(bundle)
    _print_outcome(outcome, bundle, run.directory)
    destination.push(bundle, run, verdict, why=f"hotswap train {spec.data.name}", home=home)
    if verdict is not None:
        require_met(verdict)


def _installed(names: Sequence[str]) -> list[Tracker]:
    """Raises InvalidRequest for a tracker whose package is missing."""
    from hotswap.training.runs.trackers import Tracker, require_packages

    trackers = [Tracker(name) for name in names]
    require_packages(trackers)
    return trackers


def _resumed(name: str, runs: Path, given: dict[str, Any]) -> tuple[Run, TrainingSpec]:
    from hotswap.training.runs.run import Run

    run = Run.find(runs, name)
    spec = run.resumed_spec(given)
    for change in run.changes_of_environment():
        click.echo(f"warning: {change}; the last bits of the weights may differ", err=True)
    return run, spec


def _carry_out(
    setup: Setup, known: Run | None, home: TrainingHome, trackers: Sequence[Tracker]
) -> tuple[Run, Outcome, Bundle] | None:
    """The run, what came of it and its adapter; None in a process that only takes part."""
    from hotswap.training.loop.processes import joined
    from hotswap.training.loop.progress import progress_for
    from hotswap.training.runs.interruption import StopSignals
    from hotswap.training.runs.run import Run, take_part
    from hotswap.training.runs.trackers import tracked

    spec, base, prepared = setup.spec, setup.base, setup.prepared
    with StopSignals() as stop, joined() as processes:
        if processes.rank:
            take_part(known, spec, base, prepared, stop, processes)
            return None
        run = known or Run.create(home.runs)
        progress = tracked(progress_for(sys.stderr), trackers, run.directory, spec.portable())
        return run, *run.carry_out(spec, base, prepared, progress, stop, processes)


def _print_outcome(outcome: Outcome, bundle: Bundle, run: Path) -> None:
    timing = outcome.timing
    click.echo(
        f"trained {outcome.num_trainable:,} parameters in {timing.train_s:.1f} s"
        f" ({timing.tokens_per_s:.0f} tokens/s); validation took {timing.validation_s:.1f} s"
    )
    for name, value in outcome.metrics().items():
        click.echo(f"  {name:<30} {value:g}")
    if outcome.verdict():
        click.echo(f"  {outcome.verdict()}; the adapter is that of step {outcome.best.step}")
    if outcome.best.step == 0 and outcome.num_steps > 0:
        click.echo(
            "warning: the validation loss never fell below the base's; the adapter kept is the one"
            " of step 0, which changes nothing",
            err=True,
        )
    click.echo(f"run      {run}")
    click.echo(f"adapter  {bundle.directory}")

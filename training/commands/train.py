"""`hotswap train`: options to a TrainingSpec, findings and figures to the terminal.

Torch is imported only when a training starts, so that help is quick.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotswap.registry.commands.options import model_options
from hotswap.registry.commands.parts import registry_option
from hotswap.registry.domain.adapters import check_name
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.settings import Home, RegistrySettings, read_home, read_section, read_user
from hotswap.training.commands.examination import CANDIDATE, Examination, read_requirement
from hotswap.training.commands.preview import show_masks, show_plan
from hotswap.training.commands.reports import require_met
from hotswap.training.settings import TrainingHome
from hotswap.training.spec import TrainingSpec

if TYPE_CHECKING:
    from hotswap.registry.bundles.bundle import Bundle
    from hotswap.registry.domain.manifest import Manifest
    from hotswap.training.data.findings import Finding
    from hotswap.training.outcome import Outcome

_LISTED = 5


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
    if name is not None:
        check_name(name)
    elif alias is not None or location is not None:
        raise InvalidRequest("--alias and --registry need --push NAME")
    if data is None and resume is None:
        raise InvalidRequest("give DATA, or --resume RUN to go on with a run")
    requirement = read_requirement(required, evaluated)
    given = _given(data, options)
    spec = TrainingSpec.parse(given) if resume is None else None

    from hotswap.serving.base_model import provide_base, quiet_libraries

    quiet_libraries()
    from hotswap.registry.bundles.bundle import Bundle
    from hotswap.training.data.findings import refuse
    from hotswap.training.interruption import StopSignals
    from hotswap.training.prepare import prepare
    from hotswap.training.processes import joined
    from hotswap.training.progress import progress_for
    from hotswap.training.publish import require_absent
    from hotswap.training.run import Run, take_part
    from hotswap.training.trackers import Tracker, require_packages, tracked

    chosen = [Tracker(name) for name in trackers]
    require_packages(chosen)
    if out is not None:
        require_absent(out)
    home = read_home(TrainingHome)
    known = None if resume is None else Run.find(home.runs, resume)
    if known is not None:
        spec = known.resumed_spec(given)
        for change in known.changes_of_environment():
            click.echo(f"warning: {change}; the last bits of the weights may differ", err=True)
    assert spec is not None, "made from the options or from the run"
    base = provide_base(spec.base, home.bases)
    prepared = prepare(spec, base)
    print_findings(prepared.findings)
    shows_masks = num_masks is not None or mask_file is not None
    if shows_masks:
        show_masks(prepared.train, base, num_masks, mask_file)
    refuse(prepared.findings)
    examination = (
        None if evaluated is None else Examination.prepare(evaluated, requirement, name, base)
    )
    click.echo(f"{len(prepared.train)} rows to train on, {len(prepared.validation)} to validate")
    if plan:
        show_plan(spec, base, prepared)
    if plan or shows_masks:
        return
    with StopSignals() as stop, joined() as processes:
        if processes.rank:
            take_part(known, spec, base, prepared, stop, processes)
            return
        run = known or Run.create(home.runs)
        progress = tracked(progress_for(sys.stderr), chosen, run.directory, spec.portable())
        outcome, bundle = run.carry_out(spec, base, prepared, progress, stop, processes)
    verdict = None
    if examination is not None:
        verdict = examination.hold(run, location)
        bundle = Bundle.read(run.adapter)
    if out is not None:
        shutil.copytree(bundle.directory, out, dirs_exist_ok=True)
        bundle = Bundle.read(out)
    _print_outcome(outcome, bundle, run.directory)
    if name is None:
        click.echo(
            f"push it with: hotswap push {bundle.directory} NAME --alias prod --run {run.id}"
        )
    else:
        manifest = bundle.manifest(lineage=run.lineage)
        if verdict is not None:
            alias = (alias or CANDIDATE) if verdict.holds else None
        _push(bundle, manifest, name, alias, location, why=f"hotswap train {spec.data.name}")
    if verdict is not None:
        require_met(verdict)


def read_spec(data: Path, options: dict[str, Any]) -> TrainingSpec:
    return TrainingSpec.parse(_given(data, options))


def _given(data: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    modules = options.get("target_modules")
    if modules not in (None, "all-linear"):
        options["target_modules"] = tuple(modules.split(","))
    values = {"data": data, **options}
    return {name: value for name, value in values.items() if value is not None}


def _push(
    bundle: Bundle,
    manifest: Manifest,
    name: str,
    alias: str | None,
    location: str | None,
    why: str,
) -> None:
    from hotswap.registry.bundles.transfer import push
    from hotswap.registry.connect import connect

    settings = read_section("registry", RegistrySettings)
    with connect(location, settings, read_home(Home)) as registry:
        version = push(registry, name, bundle, manifest, by=read_user(), alias=alias, why=why)
    click.echo(f"pushed {version.ref} {version.manifest_digest}")
    if alias is not None:
        click.echo(f"{name}@{alias} points to version {version.number}")


def print_findings(findings: Sequence[Finding]) -> None:
    for code in dict.fromkeys(finding.code for finding in findings):
        alike = [finding for finding in findings if finding.code == code]
        for finding in alike[:_LISTED]:
            click.echo(str(finding), err=True)
        if len(alike) > _LISTED:
            click.echo(f"{alike[0].severity}: {len(alike) - _LISTED} more [{code}]", err=True)


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

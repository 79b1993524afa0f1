"""`hotswap train`: options to a TrainingSpec, findings and figures to the terminal.

Torch is imported only when a training starts, so that help is quick.
"""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import click

from registry.adapters import check_name
from registry.errors import InvalidRequest
from registry.settings import RegistrySettings, read_home, read_section, read_user
from training.spec import TrainingSpec

if TYPE_CHECKING:
    from registry.bundle import Bundle
    from training.data_checks import Finding
    from training.finetune import Outcome

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SHORT = {"num_epochs": "epochs"}
_LISTED = 5


def _spec_options(command: _Command) -> _Command:
    """One option for every field of the spec but the data; the field's sentence is its help."""
    for name, field in reversed(TrainingSpec.model_fields.items()):
        if name == "data":
            continue
        default = "" if field.default is None else f"  [default: {field.default}]"
        command = click.option(
            f"--{_SHORT.get(name, name).replace('_', '-')}",
            name,
            default=None,
            help=f"{field.description}{default}",
            **_parameter(field.annotation),
        )(command)
    return command


def _parameter(annotation: Any) -> dict[str, Any]:
    """The click parameter for a field's annotation; None in a union means that it may be absent."""
    if get_origin(annotation) in (Union, types.UnionType):
        return _parameter(next(a for a in get_args(annotation) if a is not types.NoneType))
    if get_origin(annotation) is Literal and len(get_args(annotation)) > 1:
        return {"type": click.Choice(get_args(annotation))}
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return {"type": click.Choice([member.value for member in annotation])}
    if annotation is bool:
        return {"is_flag": True}
    if annotation is Path:
        return {"type": click.Path(path_type=Path), "metavar": "FILE"}
    return {"type": annotation if annotation in (int, float) else str}


@click.command(
    epilog="\b\nExample:\n"
    "  hotswap train orders.jsonl --out orders-v1 --epochs 3 --system-prompt 'Order to JSON.'",
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where the adapter is written; it must not exist. Without it, in the run's directory.",
)
@click.option("--push", "name", metavar="NAME", help="Also push the adapter under this name.")
@click.option("--alias", help="With --push: point this alias to the new version.")
@click.option(
    "--registry",
    "location",
    metavar="WHERE",
    help="With --push: the registry's URL or store; HOTSWAP_REGISTRY_URL by default.",
)
@_spec_options
def train(
    data: Path,
    out: Path | None,
    name: str | None,
    alias: str | None,
    location: str | None,
    **options: Any,
) -> None:
    """Train a LoRA adapter on DATA, a JSONL file.

    Rows are {"question": …, "answer": …} or {"messages": [{"role", "content"}, …]}. The data is
    checked before anything is computed. The result is a PEFT directory that `hotswap push` takes.
    """
    if name is not None:
        check_name(name)
    elif alias is not None or location is not None:
        raise InvalidRequest("--alias and --registry need --push NAME")
    spec = _spec(data, options)

    from registry.bundle import Bundle
    from serving.base_model import provide_base
    from training.data_checks import refuse
    from training.prepare import prepare
    from training.progress import progress_for
    from training.publish import require_absent
    from training.run import Run, quiet_libraries

    if out is not None:
        require_absent(out)
    home = read_home()
    quiet_libraries()
    base = provide_base(spec.base, home.bases)
    prepared = prepare(spec, base)
    _print_findings(prepared.findings)
    refuse(prepared.findings)
    click.echo(f"{len(prepared.train)} rows to train on, {len(prepared.validation)} to validate")
    run = Run.create(home.runs)
    outcome, bundle = run.carry_out(spec, base, prepared, progress_for(sys.stderr))
    if out is not None:
        shutil.copytree(bundle.directory, out, dirs_exist_ok=True)
        bundle = Bundle.read(out)
    _print_outcome(outcome, bundle, run.directory)
    if name is None:
        click.echo(f"push it with: hotswap push {bundle.directory} NAME --alias prod")
    else:
        _push(bundle, name, alias, location, why=f"hotswap train {data.name}")


def _spec(data: Path, options: dict[str, Any]) -> TrainingSpec:
    modules = options.get("target_modules")
    if modules not in (None, "all-linear"):
        options["target_modules"] = tuple(modules.split(","))
    given = {name: value for name, value in options.items() if value is not None}
    return TrainingSpec.parse({"data": data, **given})


def _push(bundle: Bundle, name: str, alias: str | None, location: str | None, why: str) -> None:
    from registry.connect import connect
    from registry.transfer import push

    settings = read_section("registry", RegistrySettings)
    with connect(location, settings, read_home()) as registry:
        version = push(
            registry, name, bundle, bundle.manifest(), by=read_user(), alias=alias, why=why
        )
    click.echo(f"pushed {version.ref} {version.manifest_digest}")
    if alias is not None:
        click.echo(f"{name}@{alias} points to version {version.number}")


def _print_findings(findings: Sequence[Finding]) -> None:
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
    if outcome.best.step == 0 and outcome.num_steps > 0:
        click.echo(
            "warning: the validation loss never fell below the base's; the adapter kept is the one"
            " of step 0, which changes nothing",
            err=True,
        )
    click.echo(f"run      {run}")
    click.echo(f"adapter  {bundle.directory}")

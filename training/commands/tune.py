"""`hotswap tune`: learning rates and ranks to one table and the best spec."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hotswap.registry.commands.options import model_options
from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.settings import read_home
from hotswap.training.commands.setup import Setup, spec_values
from hotswap.training.settings import TrainingHome
from hotswap.training.spec import TrainingSpec

if TYPE_CHECKING:
    from hotswap.training.runs.grid import Trial


@click.command(
    epilog="\b\nExample:\n"
    "  hotswap tune orders.jsonl --rates 5e-4,1e-3,2e-3 --ranks 8,16 --epochs 2",
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--rates", required=True, metavar="R,R,…", help="The learning rates to try.")
@click.option("--ranks", required=True, metavar="N,N,…", help="The ranks to try with each.")
@model_options(
    TrainingSpec, skip=frozenset({"data", "r", "learning_rate"}), names={"num_epochs": "epochs"}
)
def tune(data: Path, rates: str, ranks: str, **options: Any) -> None:
    """Train on DATA once for every pair of a learning rate and a rank, and compare.

    All runs see the same rows and the same validation rows. The one with the lowest validation
    loss wins; its adapter is in its run's directory. The same command again goes on with the runs
    that are missing; with other rates or ranks it makes only the new ones.
    """
    spec = TrainingSpec.parse(spec_values(data, options))
    chosen = (_numbers("rates", rates, float), _numbers("ranks", ranks, int))

    from hotswap.training.loop.progress import Progress, progress_for
    from hotswap.training.runs.grid import Grid
    from hotswap.training.runs.interruption import StopSignals

    home = read_home(TrainingHome)
    setup = Setup.make(spec, home)
    setup.require_usable_rows()
    grid = Grid.of(home.runs, spec, setup.prepared, *chosen)

    def announce(trial: TrainingSpec) -> Progress:
        click.echo(f"rate {trial.learning_rate:g}, rank {trial.r}", err=True)
        return progress_for(sys.stderr)

    with StopSignals() as stop:
        trials = grid.carry_out(setup.base, setup.prepared, announce, stop)
    _print_table(trials)
    click.echo(f"best spec  {grid.directory / 'best.json'}")
    click.echo(f"adapter    {home.runs / trials[0].run / 'adapter'}")


def _numbers(name: str, text: str, kind: type[float] | type[int]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise InvalidSettings(
            f"--{name} is {text!r}; give numbers with commas between them"
        ) from None


def _print_table(trials: Sequence[Trial]) -> None:
    click.echo(
        f"{'rate':>9} {'rank':>5} {'parameters':>11} {'validation loss':>15} {'accuracy':>9}"
        f" {'best step':>9} {'tokens/s':>9}  run"
    )
    for trial in trials:
        click.echo(
            f"{trial.learning_rate:>9g} {trial.r:>5} {trial.num_trainable:>11,}"
            f" {trial.validation_loss:>15.4f} {trial.validation_token_accuracy:>9.3f}"
            f" {trial.best_step:>9} {trial.tokens_per_s:>9.0f}  {trial.run}"
        )

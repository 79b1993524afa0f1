"""What `hotswap train` shows in place of training: sample rows with their masks, and a plan."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from hotswap.registry.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from hotswap.serving.base_model import BaseDirectory
    from hotswap.training.data.tokens import Row
    from hotswap.training.methods.layers import Layer
    from hotswap.training.methods.plan import Memory, Plan
    from hotswap.training.prepare import Prepared
    from hotswap.training.spec import TrainingSpec


def show_masks(
    rows: Sequence[Row], base: BaseDirectory, count: int | None, file: Path | None = None
) -> None:
    """The first `count` rows (None: all) with their masks, to the terminal in colour or to a new
    file; click takes the colour out where there is no terminal. Raises InvalidRequest for a file
    that is there already or cannot be made."""
    from hotswap.training.data.tokens import marked

    chosen = rows[:count]
    with ExitStack() as stack:
        out = None if file is None else stack.enter_context(_new_file(file))
        for row in chosen:
            click.echo(
                f"{row.place}: {row.num_supervised} of {len(row.ids)} tokens are supervised", out
            )
            click.echo(marked(row, base.tokenizer, coloured=out is None), out)
    if file is not None:
        click.echo(f"{len(chosen)} rows with their masks written to {file}")


def _new_file(path: Path) -> TextIO:
    try:
        return path.open("x", encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(
            f"{path}: {error.strerror}; give --mask-file the name of a new file"
        ) from None


def show_plan(spec: TrainingSpec, base: BaseDirectory, prepared: Prepared) -> None:
    """Parameters and memory from shapes, then the time from a few steps, which are thrown away."""
    from hotswap.training.loop.pace import measure_pace
    from hotswap.training.methods.plan import make_plan

    plan = make_plan(base, spec, prepared.train)
    for line in (*_layer_lines(plan), *_memory_lines(plan.memory)):
        click.echo(line)
    pace = measure_pace(base, spec, prepared.train)
    seconds = pace.seconds(spec, prepared.train, prepared.validation)
    click.echo(
        f"one longest pass really keeps {_megabytes(pace.activations_bytes)} of activations\n"
        f"time: about {seconds:,.0f} s for {spec.num_epochs} × {len(prepared.train)} rows"
        f" ({pace.train_tokens_per_s:.0f} tokens/s, measured over a few steps on this machine)"
    )


def _layer_lines(plan: Plan) -> Iterator[str]:
    """One line for layers of one place and shape, whatever block they are in, and the sum."""
    alike: dict[tuple[str, int, int], list[Layer]] = {}
    for layer in plan.layers:
        alike.setdefault(_kind(layer), []).append(layer)
    yield _columns("layers", "out × in", "w · k", f"r · (k + w), r = {plan.r}", "share")
    for (name, num_in, num_out), layers in alike.items():
        num_weights = sum(layer.num_weights for layer in layers)
        num_lora = sum(layer.num_lora(plan.r) for layer in layers)
        label = f"{len(layers)} × {name}"
        yield _columns(label, f"{num_out} × {num_in}", *_shares(num_weights, num_lora))
    yield _columns("all", "", *_shares(plan.num_adapted, plan.num_published))
    yield (
        f"{plan.num_trainable:,} parameters train, {plan.num_trainable / plan.num_model:.2%} of the"
        f" base's {plan.num_model:,}"
    )


def _kind(layer: Layer) -> tuple[str, int, int]:
    return re.sub(r"\.\d+\.", ".*.", layer.name), layer.num_in, layer.num_out


def _shares(num_weights: int, num_lora: int) -> tuple[str, str, str]:
    return f"{num_weights:,}", f"{num_lora:,}", f"{num_lora / num_weights:.2%}"


def _columns(name: str, shape: str, num_weights: str, num_lora: str, share: str) -> str:
    return f"{name:<44} {shape:>13} {num_weights:>14} {num_lora:>20} {share:>7}"


def _memory_lines(memory: Memory) -> Iterator[str]:
    yield f"memory: {_megabytes(memory.peak_bytes)} at most, besides Python and its libraries"
    parts = {
        "weights": memory.weights_bytes,
        "optimizer": memory.optimizer_bytes,
        "gradients": memory.gradients_bytes,
        "activations of the longest pass, at most": memory.activations_bytes,
        "logits": memory.logits_bytes,
        "kept weights": memory.kept_bytes,
        "the base once more, at the end": memory.publishing_bytes,
    }
    for name, size_bytes in parts.items():
        yield f"  {name:<42} {_megabytes(size_bytes):>12}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"

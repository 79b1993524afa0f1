"""A run's State in one file: tensors and a JSON header in safetensors' format, no pickle.

header       format, identity, curve, best step, timing
weights/…    master weights and the optimiser's moments
generators/… random generators
best/…       the best checkpoint's weights
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hotswap.registry.domain.values import ValueObject
from hotswap.registry.durable import replaced_file
from hotswap.training.errors import InvalidData, ResumeRefused
from hotswap.training.loop.progress import Timing
from hotswap.training.loop.state import Checkpoint, Point, State
from hotswap.training.loss import Tally

_HEADER = "hotswap"


@dataclass(frozen=True)
class CheckpointFile:
    """The newest State of one run.

    Invariant: the file is there complete or not at all, after a crash or a power cut too. It
    belongs to `identity`, what the run was started with: another one is refused.
    """

    path: Path
    identity: Mapping[str, Any]

    def save(self, state: State) -> None:
        with replaced_file(self.path) as part:
            save_file(_tensors(state), part, metadata={_HEADER: _header(state, self.identity)})

    def latest(self) -> State | None:
        """None before the first save. Raises ResumeRefused, naming the first field of the
        identity that differs, and InvalidData for a file that this version cannot read."""
        if not self.path.exists():
            return None
        header, tensors = _read(self.path)
        for field, values in difference(header.identity, self.identity).items():
            raise ResumeRefused(
                f"{self.path} was made with {field} = {values[0]!r}, now it is {values[1]!r};"
                " give back what the run was started with, or start a new run",
                field=field,
            )
        return _state(header, tensors)


def difference(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """The fields in which two JSON objects differ, nested ones as `outer.inner`."""
    differing: dict[str, tuple[Any, Any]] = {}
    for name in (*before, *(name for name in now if name not in before)):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differing |= difference(old, new, f"{prefix}{name}.")
        elif old != new:
            differing[f"{prefix}{name}"] = (old, new)
    return differing


class _Header(ValueObject):
    """Every number is written so that it is read back exactly, also one that is infinite."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    format: Literal[1] = 1
    identity: dict[str, Any]
    curve: tuple[Point, ...]
    first_validation: Tally | None
    best_step: int | None
    best_validation: Tally | None
    timing: Timing


def _header(state: State, identity: Mapping[str, Any]) -> str:
    best = state.best
    return _Header(
        identity=dict(identity),
        curve=state.curve,
        first_validation=state.first_validation,
        best_step=best.step if best is not None else None,
        best_validation=best.validation if best is not None else None,
        timing=state.timing,
    ).model_dump_json()


def _tensors(state: State) -> dict[str, torch.Tensor]:
    named = {f"weights/{name}": tensor for name, tensor in state.weights.items()}
    named |= {f"generators/{i}": tensor for i, tensor in enumerate(state.generators)}
    if state.best is not None:
        named |= {f"best/{name}": tensor for name, tensor in state.best.tensors.items()}
    return named


def _read(path: Path) -> tuple[_Header, dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = _Header.model_validate_json((file.metadata() or {}).get(_HEADER, ""))
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValidationError) as error:
        raise InvalidData(
            f"{path} is not a checkpoint that this version can read ({error});"
            " remove it and the run starts from its first step"
        ) from None


def _state(header: _Header, tensors: Mapping[str, torch.Tensor]) -> State:
    best = None
    if header.best_step is not None:
        best = Checkpoint(header.best_step, _below("best/", tensors), header.best_validation)
    generators = _below("generators/", tensors)
    return State(
        weights=_below("weights/", tensors),
        generators=[generators[str(i)] for i in range(len(generators))],
        curve=header.curve,
        best=best,
        first_validation=header.first_validation,
        timing=header.timing,
    )


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }

"""Command-line options from a settings model: a field an option, its docstring the help."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BaseModel

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def model_options(
    model: type[BaseModel],
    *,
    skip: frozenset[str] = frozenset(),
    names: Mapping[str, str] | None = None,
) -> Callable[[CommandT], CommandT]:
    """A decorator that adds `--<field>` for every field of `model` but those in `skip`.

    `names` gives some fields another option name. An option that is not given is None: the
    model's default applies, or the environment's.
    """

    def decorate(command: CommandT) -> CommandT:
        for name, field in reversed(model.model_fields.items()):
            if name in skip:
                continue
            option = (names or {}).get(name, name).replace("_", "-")
            default = "" if field.default in (None, ()) else f"  [default: {_text(field.default)}]"
            switch = f"/--no-{option}" if field.default is True else ""
            command = click.option(
                f"--{option}{switch}",
                name,
                default=None,
                help=f"{field.description}{default}",
                **_parameter(field.annotation),
            )(command)
        return command

    return decorate


def _text(default: object) -> str:
    return default.value if isinstance(default, StrEnum) else str(default)


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

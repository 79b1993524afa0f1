"""Reads a TOML file into a model. Every error names the file and the key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hotswap.registry.domain.errors import InvalidSettings
from hotswap.registry.domain.values import first_problem

ModelT = TypeVar("ModelT", bound=BaseModel)


def read_toml(path: Path, kind: type[ModelT]) -> ModelT:
    """The file as `kind`; raises InvalidSettings when it cannot be read or does not fit."""
    try:
        return kind.model_validate(tomllib.loads(path.expanduser().read_text("utf-8")))
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        raise InvalidSettings(f"{path}: {first_problem(error)}") from None

"""What a test asks of an error: its class, its fields and the values it names. Never its prose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hotswap.registry.domain.errors import HotswapError


@contextmanager
def refused(
    kind: type[HotswapError], *named: object, **fields: Any
) -> Iterator[pytest.ExceptionInfo[HotswapError]]:
    """Fails unless exactly `kind` is raised, with these fields, and a message that holds each of
    the `named` values: a name, a number, a path, a command to type."""
    with pytest.raises(kind) as raised:
        yield raised
    error = raised.value
    assert type(error) is kind, error.message
    assert {key: error.fields.get(key) for key in fields} == fields
    missing = [value for value in map(str, named) if not _names(error.message, value)]
    assert missing == [], error.message


def _names(message: str, value: str) -> bool:
    """A number counts as a whole one only."""
    if value.isdigit():
        return re.search(rf"(?<![\w.]){value}(?!\w|[.]\d)", message) is not None
    return value in message

"""Lists as OpenAI pages them: `after` is the id of the last object that the client has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hotswap.registry.domain.errors import InvalidRequest


def page(objects: Sequence[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """The `limit` objects behind `after`; raises InvalidRequest when `after` is none of them."""
    start = 0 if after is None else _index(objects, after) + 1
    found = objects[start : start + limit]
    return {
        "object": "list",
        "data": found,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
        "has_more": start + limit < len(objects),
    }


def _index(objects: Sequence[dict[str, Any]], after: str) -> int:
    for index, each in enumerate(objects):
        if each["id"] == after:
            return index
    raise InvalidRequest(
        f"after: there is no {after[:80]!r} in this list; give an id that the list has shown",
        param="after",
    )

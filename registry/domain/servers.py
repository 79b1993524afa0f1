"""Serving processes as the registry knows them: what they report, and for how long it counts."""

from __future__ import annotations

import re
from datetime import datetime

from pydantic import Field

from hotswap.registry.domain.digests import Digest
from hotswap.registry.domain.errors import InvalidRequest
from hotswap.registry.domain.values import ValueObject

HEARTBEAT_S = 10.0


_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?")


class ServerReport(ValueObject):
    """What a server says: the cursor up to which it has applied events, what each alias it was
    asked for means there now, and the manifest digests it holds in memory.

    `refused` has the aliases whose target it will not serve, with the reason.
    """

    base: str
    cursor: int
    aliases: dict[str, Digest]
    refused: dict[str, str] = Field(default_factory=dict)
    loaded: tuple[Digest, ...]


class ServerInfo(ServerReport):
    """A report with the server's id, the token that sent it, and when."""

    server_id: str
    by: str
    seen_at: datetime


def check_server_id(server_id: str) -> str:
    """Return `server_id` if it can be one; raises InvalidRequest otherwise."""
    if _ID.fullmatch(server_id) is None:
        raise InvalidRequest(
            f"{server_id[:110]!r} is not a server's id; use 1 to 100 lower-case letters, digits "
            "or '-' (example: 'gpu1-4711-9f3a2b1c')",
            param="server_id",
        )
    return server_id

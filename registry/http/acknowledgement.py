"""Waiting until every live server has applied a move."""

from __future__ import annotations

import time

from hotswap.registry.domain.errors import InvalidRequest, NotAcknowledged
from hotswap.registry.domain.protocol import AdapterRegistry

PAUSE_S = 0.02


def require_waitable(registry: AdapterRegistry) -> None:
    """Raises InvalidRequest for a registry that no server follows, so none would ever answer."""
    if not registry.events.is_followed:
        raise InvalidRequest(
            "--wait needs the registry that the servers report to, not its store; give its URL "
            "with --registry or HOTSWAP_REGISTRY_URL"
        )


def wait_for_servers(registry: AdapterRegistry, ref: str, timeout_s: float) -> str:
    """Until every live server has applied the move of `ref` that was just made; says how many.

    Raises NotAcknowledged, naming the servers that have not after `timeout_s`, and those that
    have read the move's event and refuse its target.
    """
    deadline = time.monotonic() + timeout_s
    end = registry.events.read().cursor
    while True:
        live = registry.events.servers()
        behind = [server for server in live if server.cursor < end]
        refusing = [s for s in live if s.cursor >= end and ref in s.refused]
        if refusing:
            raise NotAcknowledged(
                f"{ref} was moved, but its new target is refused by "
                + "; ".join(f"{s.server_id}: {s.refused[ref]}" for s in refusing),
                servers=[server.server_id for server in refusing],
            )
        if not behind:
            return f"applied by {len(live)} live server{'' if len(live) == 1 else 's'}"
        if time.monotonic() >= deadline:
            names = ", ".join(f"{s.server_id} (at event {s.cursor} of {end})" for s in behind)
            raise NotAcknowledged(
                f"the alias was moved, but not applied within {timeout_s:g} s by {names}; see "
                "`hotswap server ls`",
                servers=[server.server_id for server in behind],
            )
        time.sleep(PAUSE_S)

"""How far the delivery to each webhook has come."""

from __future__ import annotations

from datetime import datetime

from hotswap.registry.domain.values import ValueObject


class Attempt(ValueObject):
    """One line of the delivery log. `status` is None without an answer; `error` says why."""

    event: int
    at: datetime
    number: int
    status: int | None
    error: str = ""


class WebhookState(ValueObject):
    """How far a webhook has come: every event up to `cursor` that it wants was delivered."""

    name: str
    cursor: int
    attempts: tuple[Attempt, ...] = ()
    """The last ones, oldest first."""

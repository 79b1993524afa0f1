"""How far the delivery to each webhook has come."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Attempt(_Part):
    """One line of the delivery log. `status` is None when nobody answered; `error` says why."""

    event: int
    at: datetime
    number: int
    status: int | None
    error: str = ""


class WebhookState(_Part):
    """How far a webhook has come: every event up to `cursor` that it wants was delivered."""

    name: str
    cursor: int
    attempts: tuple[Attempt, ...] = ()
    """The last ones, oldest first."""

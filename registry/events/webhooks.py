"""Webhooks: each event is sent, signed, to those who asked for it, until they have it.

    [[webhooks]]
    name = "ci"
    url = "https://ci.example/hotswap"
    secret = "whsec_…"             # 'whsec_' and 24 to 64 random bytes in base64
    match = "team/*@prod"          # names; with '@…' only moves of these aliases
    kinds = ["move"]               # version, move, state; all when left out

The form is that of standardwebhooks.com: the headers `webhook-id` (the event's sequence),
`webhook-timestamp` and `webhook-signature`, which is HMAC-SHA256 of `id.timestamp.body`. Delivery
is at least once and in order: an event is repeated until it is answered with 2xx, and the ones
behind it wait. The cursor of each webhook is in the store, so a restart loses none. A new webhook
begins with what happens from then on.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator

from hotswap.registry.domain.access import covers, is_alias_pattern
from hotswap.registry.domain.errors import BlobCorrupted
from hotswap.registry.domain.event import Event
from hotswap.registry.domain.layout import WEBHOOKS
from hotswap.registry.domain.values import ValueObject, first_problem
from hotswap.registry.domain.webhooks import WebhookState
from hotswap.registry.storage.objects import ObjectMissing, ObjectStore

_PREFIX = "whsec_"


class Webhook(ValueObject):
    """Where events go, which ones, and the secret they are signed with."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$")]
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+")]
    secret: SecretStr
    match: str = "*"
    kinds: tuple[Literal["version", "move", "state"], ...] = ("version", "move", "state")

    @field_validator("secret")
    @classmethod
    def _is_secret(cls, secret: SecretStr) -> SecretStr:
        if not 24 <= len(_key(secret)) <= 64:
            raise ValueError("expected 'whsec_' and 24 to 64 bytes in base64")
        return secret

    @field_validator("match")
    @classmethod
    def _is_pattern(cls, text: str) -> str:
        if not is_alias_pattern(text):
            raise ValueError(f"{text!r} is not a pattern of names (example: 'team/*@prod')")
        return text

    def wants(self, event: Event) -> bool:
        name, move = event.version.name, event.move
        return event.kind in self.kinds and covers(
            self.match, name if move is None else f"{name}@{move.alias}"
        )

    def headers(self, event: Event, body: bytes, at: datetime) -> dict[str, str]:
        """What a receiver needs to know that the body is ours, and new."""
        event_id, seconds = str(event.sequence), str(int(at.timestamp()))
        signed = b".".join((event_id.encode(), seconds.encode(), body))
        signature = hmac.new(_key(self.secret), signed, hashlib.sha256).digest()
        return {
            "content-type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": seconds,
            "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
        }


class WebhookSettings(ValueObject):
    """The file that HOTSWAP_REGISTRY_WEBHOOKS names."""

    webhooks: tuple[Webhook, ...]

    @field_validator("webhooks")
    @classmethod
    def _names_differ(cls, webhooks: tuple[Webhook, ...]) -> tuple[Webhook, ...]:
        if len({webhook.name for webhook in webhooks}) < len(webhooks):
            raise ValueError("two webhooks have one name")
        return webhooks


def read_states(store: ObjectStore) -> list[WebhookState]:
    """What the store knows of every webhook there ever was, in order of name."""
    states = (read_state(store, key) for key in sorted(store.list(WEBHOOKS)))
    return [state for state in states if state is not None]


def read_state(store: ObjectStore, key: str) -> WebhookState | None:
    try:
        return WebhookState.model_validate_json(b"".join(store.open(key)))
    except ObjectMissing:
        return None
    except ValidationError as error:
        raise BlobCorrupted(
            f"{store.location}, {key} is not a webhook's state: {first_problem(error)}; restore "
            "it, or remove it to begin at the end of the log"
        ) from None


def _key(secret: SecretStr) -> bytes:
    """The bytes that sign; none for text that is no secret."""
    text = secret.get_secret_value()
    try:
        return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        return b""

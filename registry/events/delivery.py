"""Sends events to webhooks, each on a thread of its own, until they are accepted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Protocol

import httpx

from hotswap.registry.domain.errors import CursorAhead, HotswapError
from hotswap.registry.domain.event import MAX_WAIT_S, Event, EventPage
from hotswap.registry.domain.layout import webhook_key
from hotswap.registry.domain.webhooks import Attempt, WebhookState
from hotswap.registry.events.webhooks import Webhook, WebhookSettings, read_state
from hotswap.registry.storage.objects import ObjectStore

_log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 300.0
JOIN_S = TIMEOUT_S + 5
MAX_LOGGED = 50


class ReadEvents(Protocol):
    """The registry's verb."""

    def __call__(self, after: int | None = None, *, wait_s: float = 0) -> EventPage: ...


class WebhookDelivery:
    """All webhooks of a registry, each with a thread, so that none waits for another's receiver."""

    def __init__(
        self,
        settings: WebhookSettings,
        store: ObjectStore,
        read: ReadEvents,
        wake: Callable[[], None],
    ) -> None:
        """`wake` ends the waits of `read`."""
        self._wake = wake
        self._stopping = threading.Event()
        self._senders = [
            _Sender(webhook, store, read, self._stopping) for webhook in settings.webhooks
        ]

    def start(self) -> None:
        """Raises BlobCorrupted when a cursor in the store cannot be read."""
        for sender in self._senders:
            sender.begin()
        for sender in self._senders:
            sender.thread.start()

    @property
    def is_running(self) -> bool:
        """Whether any webhook's thread is alive."""
        return any(sender.thread.is_alive() for sender in self._senders)

    def stop(self) -> None:
        """What is not delivered by then is delivered after the next start."""
        self._stopping.set()
        deadline = time.monotonic() + JOIN_S
        for sender in self._senders:
            while sender.thread.is_alive() and time.monotonic() < deadline:
                self._wake()
                sender.thread.join(0.1)


class _Sender:
    """Invariant: the cursor in the store never passes an event that is wanted and not delivered."""

    def __init__(
        self,
        webhook: Webhook,
        store: ObjectStore,
        read: ReadEvents,
        stopping: threading.Event,
    ) -> None:
        self._webhook = webhook
        self._store = store
        self._read = read
        self._stopping = stopping
        self._state = WebhookState(name=webhook.name, cursor=0)
        self.thread = threading.Thread(
            target=self._run, name=f"webhook {webhook.name}", daemon=True
        )

    def begin(self) -> None:
        """Take up the cursor, or for a new webhook note the end of the log as its start."""
        known = read_state(self._store, webhook_key(self._webhook.name))
        if known is not None:
            self._state = known
        else:
            self._save(cursor=self._read().cursor)

    def _run(self) -> None:
        with httpx.Client(timeout=TIMEOUT_S) as http:
            while not self._stopping.is_set():
                try:
                    self._step(http)
                except CursorAhead as error:
                    _log.warning("webhook %s starts over: %s", self._webhook.name, error)
                    self._save(cursor=int(error.fields["end"]))
                except HotswapError as error:
                    _log.warning("webhook %s waits: %s", self._webhook.name, error)
                    self._stopping.wait(FIRST_RETRY_S)

    def _step(self, http: httpx.Client) -> None:
        page = self._read(self._state.cursor, wait_s=MAX_WAIT_S)
        for event in page.events:
            if self._webhook.wants(event):
                if not self._deliver(http, event):
                    return
                self._save(cursor=event.sequence)
        if page.cursor != self._state.cursor:
            self._save(cursor=page.cursor)

    def _deliver(self, http: httpx.Client, event: Event) -> bool:
        """Until it is accepted; False when the registry stops first."""
        for number in count(1):
            attempt = self._attempt(http, event, number)
            attempts = (*self._state.attempts, attempt)[-MAX_LOGGED:]
            self._state = self._state.model_copy(update={"attempts": attempts})
            if attempt.status is not None and 200 <= attempt.status < 300:
                return True
            _log.warning(
                "webhook %s: event %d was not accepted: %s",
                self._webhook.name,
                event.sequence,
                attempt.error or attempt.status,
            )
            self._save(cursor=self._state.cursor)
            if self._stopping.wait(pause_s(FIRST_RETRY_S, number)):
                return False
        raise AssertionError("unreachable: count does not end")

    def _attempt(self, http: httpx.Client, event: Event, number: int) -> Attempt:
        at = datetime.now(UTC)
        body = event.model_dump_json().encode()
        status, error = None, ""
        try:
            headers = self._webhook.headers(event, body, at)
            status = http.post(self._webhook.url, content=body, headers=headers).status_code
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            error = f"{type(failure).__name__}: {failure}"[:500]
        return Attempt(event=event.sequence, at=at, number=number, status=status, error=error)

    def _save(self, cursor: int) -> None:
        self._state = self._state.model_copy(update={"cursor": cursor})
        data = self._state.model_dump_json(indent=1).encode()
        self._store.put(webhook_key(self._webhook.name), [data])


def pause_s(first_s: float, number: int) -> float:
    """Twice as long after each attempt, up to MAX_RETRY_S."""
    return min(first_s * 2.0 ** min(number - 1, 30), MAX_RETRY_S)

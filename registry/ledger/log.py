"""The log of events: appended behind the records they publish, read from any cursor, awaited.

An event is claimed like every record: created once under the next sequence number. Whoever claims
a number has read every event before it, so a record that has an event already gets no second one,
whichever process wrote the first. A crash between a record and its event leaves the record without
one; the next start appends it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from hotswap.registry.database.catalog import Catalog
from hotswap.registry.domain.adapters import AdapterVersion
from hotswap.registry.domain.errors import BlobCorrupted, CursorAhead, InvalidRequest
from hotswap.registry.domain.event import (
    MAX_PAGE,
    MAX_WAIT_S,
    Event,
    EventPage,
    EventRecord,
    key_of,
    order_of,
    subject_of,
)
from hotswap.registry.ledger.backlog import Backlog
from hotswap.registry.ledger.records import Records

MAX_REMEMBERED = 1024
# How often the store is asked for events of other processes while somebody waits.
LOOK_S = 1.0
MIN_LOOK_S = 0.05


class EventLog:
    """Invariant: sequences are dense from 1, each record has at most one event, and the catalog
    has the record key of every event up to the one this process knows as the last.

    Safe from several threads. Events of this process wake who waits at once; those of others are
    seen within `look_s`.
    """

    def __init__(
        self,
        records: Records,
        catalog: Catalog,
        version: Callable[[str, int], AdapterVersion],
        backlog: Backlog,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        """`version` gives the version a move or a state is about; `backlog` keeps what the records
        of other processes are about, which the catalog lacks."""
        self._records = records
        self._catalog = catalog
        self._version = version
        self._backlog = backlog
        self._look_s = look_s
        self._writing = threading.RLock()  # held while the end of the log is moved
        self._pending: deque[EventRecord] = deque()
        self._looked_at = float("-inf")
        self._is_put_back = False
        self._changed = threading.Condition()  # guards what is below
        self._end: int | None = None
        self._recent: OrderedDict[int, Event] = OrderedDict()
        self._num_wakes = 0

    def enqueue(self, records: Iterable[EventRecord]) -> None:
        """Note claimed records as pending, before what is noted or appended later."""
        self._pending.extend(sorted(records, key=order_of))

    def append(self, records: Iterable[EventRecord] = ()) -> None:
        """Append the events of claimed records, and of all that are pending. After StoreUnavailable
        they stay pending; the next call or look of this process appends them, or the next start
        of any.

        The end of the log is not looked for first: when it is not where this process left it, the
        claim is lost, which shows the same.
        """
        self.enqueue(records)
        with self._writing:
            self._append_pending()

    def published(self) -> set[str]:
        """The keys of all records that have an event now."""
        with self._writing:
            self._settle()
            return self._catalog.event_keys()

    def is_stored(self) -> bool:
        """Whether the last event the catalog knows is still what the store has under its number.
        It is not when the store was put back to an earlier state, whatever was appended since."""
        return not self._is_put_back and self._holds(self._last())

    def look(self) -> None:
        """See what other processes appended, unless that was done within `look_s`."""
        with self._writing:
            if time.monotonic() - self._looked_at >= self._look_s:
                self._settle()

    def read_again(self, keep: Callable[[list[Event]], None]) -> None:
        """Read the whole log; `keep` makes the catalog's index from it, while nothing is added."""
        with self._writing:
            events = list(self._records.events_from(1))
            keep(events)
            self._backlog.add(self._catalog.unknown(events))
            self._is_put_back = False
            with self._changed:
                self._recent.clear()
                self._end = 0
            self._remember(events)

    def read(self, after: int | None = None, *, limit: int = 100, wait_s: float = 0) -> EventPage:
        """Up to `limit` events behind `after`; waits up to `wait_s` for the first one.

        None stands for the end of the log: nothing but the cursor. `wake` ends the wait early.
        Before a cursor counts as ahead the store is asked: another process may have given it.
        Raises CursorAhead when the log ends before `after`.
        """
        _check_page(after, limit, wait_s)
        deadline = time.monotonic() + wait_s
        while True:
            with self._changed:
                num_wakes = self._num_wakes
            self._look(now=after is None or after > (self._end or 0))
            page = self._page(after, limit)
            remaining = deadline - time.monotonic()
            if after is None or page.events or remaining <= 0:
                return page
            if self._wait(after, num_wakes, min(remaining, max(self._look_s, MIN_LOOK_S))):
                return page

    def wake(self) -> None:
        """End every wait now; what waits returns what there is."""
        with self._changed:
            self._num_wakes += 1
            self._changed.notify_all()

    def _wait(self, after: int, num_wakes: int, timeout_s: float) -> bool:
        """Until there is more behind `after` or `wake` was called, which is the answer."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._num_wakes > num_wakes or (self._end or 0) > after, timeout_s
            )
            return self._num_wakes > num_wakes

    def _look(self, *, now: bool) -> None:
        """See what other processes appended, unless that was done, or is being done, just now."""
        now = now or self._end is None
        if not now and time.monotonic() - self._looked_at < self._look_s:
            return
        if self._writing.acquire(blocking=now):
            try:
                self._settle()
            finally:
                self._writing.release()

    def _settle(self) -> None:
        """Read the log to its end and append what is pending; the caller holds `_writing`."""
        self._read_on()
        self._append_pending()

    def _append_pending(self) -> None:
        while self._pending:
            record = self._pending[0]
            if not self._catalog.has_event(key_of(record)):
                version = self._version(*subject_of(record))
                event = Event.of(self._last() + 1, datetime.now(UTC), record, version)
                if not self._records.claim_event(event):
                    self._read_on()
                    continue
                self._keep([event])
            self._pending.popleft()

    def _read_on(self) -> None:
        looked_at = time.monotonic()
        events = list(self._records.events_from(self._last() + 1))
        if events:
            self._is_put_back |= not self._holds(self._last())
            self._backlog.add(self._catalog.unknown(events))
        self._keep(events)
        self._looked_at = looked_at

    def _holds(self, last: int) -> bool:
        """Whether the event of this number in the store is the one we know."""
        if last == 0:
            return True
        try:
            stored = next(self._records.events_from(last), None)
        except BlobCorrupted:  # whoever reads it gets the error
            return False
        with self._changed:
            known = self._recent.get(last, stored)
        return stored is not None and stored == known and self._catalog.has_event(stored.record_key)

    def _last(self) -> int:
        if self._end is None:
            last = self._catalog.last_event()
            with self._changed:
                self._end = last
        return self._end

    def _keep(self, events: list[Event]) -> None:
        if events:
            self._catalog.add_events(events)
            self._remember(events)

    def _remember(self, events: list[Event]) -> None:
        with self._changed:
            for event in events:
                self._recent[event.sequence] = event
                self._end = event.sequence
            while len(self._recent) > MAX_REMEMBERED:
                self._recent.popitem(last=False)
            self._changed.notify_all()

    def _page(self, after: int | None, limit: int) -> EventPage:
        with self._changed:
            end = self._end or 0
            if after is None:
                return EventPage(events=(), cursor=end)
            numbers = range(after + 1, min(after + limit, end) + 1)
            recent = {n: self._recent[n] for n in numbers if n in self._recent}
        if after > end:
            raise CursorAhead(
                f"the cursor is {after}, but the log of events ends at {end}: the store was put "
                "back to an earlier state; forget what you know and start at the end of the log",
                end=end,
            )
        events = tuple(recent.get(n) or self._records.event(n) for n in numbers)
        return EventPage(events=events, cursor=after + len(events))


def _check_page(after: int | None, limit: int, wait_s: float) -> None:
    if after is not None and after < 0:
        raise InvalidRequest(f"after is {after}; give a cursor, 0 or more", param="after")
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit is {limit}; give 1 to {MAX_PAGE}", param="limit")
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise InvalidRequest(f"wait_s is {wait_s}; give 0 to {MAX_WAIT_S:g}", param="wait_s")

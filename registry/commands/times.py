"""Points in time as people type them and as the commands print them: one parser, one form.

2026-11-24T09:30:00Z           what tables print; any offset, seconds and fraction may be left out
2026-11-24 09:30:00 UTC        what messages print
2026-11-24                     the day's start in UTC; so are today, yesterday and tomorrow
90m  12h  30d  2w              so long ago, or so long from now where a time to come is asked for
now
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Literal, TypeVar

import click

from hotswap.registry.clock import Clock, utc_now

Direction = Literal["past", "future"]
ValueT = TypeVar("ValueT", date, datetime)

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_EXAMPLES: dict[Direction, str] = {
    "past": "2026-11-24T09:30:00Z, 2026-11-24, yesterday or 12h",
    "future": "2026-11-24T09:30:00Z, 2026-11-24, 90d or 12h",
}


def time_text(at: datetime) -> str:
    """A time to the second, in UTC; `parse_time` reads it back."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def parse_time(text: str, direction: Direction, now: datetime) -> datetime:
    """The time that was typed; raises BadParameter when it is none, or not in that direction."""
    at = _read(text.strip(), direction, now)
    if direction == "past" and at > now:
        raise click.BadParameter(f"{text!r} is in the future; it is {time_text(now)} now")
    if direction == "future" and at <= now:
        raise click.BadParameter(f"{text!r} is in the past; it is {time_text(now)} now")
    return at


def time_parameter(
    direction: Direction, clock: Clock = utc_now
) -> Callable[[click.Context, click.Parameter, str | None], datetime | None]:
    """A callback for an option or argument that takes a time."""

    def read(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
        return None if text is None else parse_time(text, direction, clock())

    return read


def _read(text: str, direction: Direction, now: datetime) -> datetime:
    if text == "now":
        return now
    if text in _DAYS:
        return _start(now.astimezone(UTC).date() + timedelta(days=_DAYS[text]))
    if (length := re.fullmatch(r"([1-9][0-9]{0,4})([mhdw])", text)) is not None:
        span = timedelta(**{_UNITS[length[2]]: int(length[1])})
        return now - span if direction == "past" else now + span
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return _start(_iso(date.fromisoformat, text, direction))
    at = _iso(datetime.fromisoformat, re.sub(r" ?UTC$", "+00:00", text), direction)
    if at.tzinfo is None:
        raise click.BadParameter(f"{text!r} names no time zone; add one: {text}Z is UTC")
    return at


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _iso(read: Callable[[str], ValueT], text: str, direction: Direction) -> ValueT:
    try:
        return read(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a time; give ISO 8601 or a length, like {_EXAMPLES[direction]}"
        ) from None

"""Every command takes the times that another prints, and refuses the wrong direction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from hotswap.registry.commands.times import Direction, parse_time, time_text

NOW = datetime(2026, 11, 24, 9, 30, 0, 250_000, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-24T09:29:59Z", NOW.replace(minute=29, second=59, microsecond=0)),
        ("2026-11-24T10:30:00+01:00", NOW.replace(microsecond=0)),
        ("2026-11-24 09:30:00 UTC", NOW.replace(microsecond=0)),
        ("2026-11-24T09:30:00.250000+00:00", NOW),
        ("2026-11-24", MIDNIGHT),
        ("today", MIDNIGHT),
        ("yesterday", MIDNIGHT - timedelta(days=1)),
        ("now", NOW),
        ("90m", NOW - timedelta(minutes=90)),
        ("1h", NOW - timedelta(hours=1)),
        ("2w", NOW - timedelta(weeks=2)),
    ],
)
def test_time_that_is_past_is_read(text: str, meant: datetime) -> None:
    assert parse_time(text, "past", NOW) == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90d", NOW + timedelta(days=90)),
        ("tomorrow", MIDNIGHT + timedelta(days=1)),
        ("2027-01-01T00:00:00Z", datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_time_to_come_is_read(text: str, meant: datetime) -> None:
    assert parse_time(text, "future", NOW) == meant


@pytest.mark.parametrize("at", [NOW, NOW - timedelta(days=400)])
def test_what_is_printed_is_read_back_to_the_second(at: datetime) -> None:
    assert parse_time(time_text(at), "past", NOW) == at.replace(microsecond=0)


@pytest.mark.parametrize(
    ("text", "direction", "words"),
    [
        ("2026-11-24T09:30:01Z", "past", "in the future; it is 2026-11-24T09:30:00Z now"),
        ("tomorrow", "past", "in the future"),
        ("yesterday", "future", "in the past"),
        ("2026-11-24T09:00", "past", "names no time zone"),
        ("0d", "future", "is not a time"),
        ("soon", "past", "like 2026-11-24T09:30:00Z, 2026-11-24, yesterday or 12h"),
        ("2026-02-30", "past", "is not a time"),
    ],
)
def test_what_is_no_time_or_lies_in_the_wrong_direction_is_refused(
    text: str, direction: Direction, words: str
) -> None:
    with pytest.raises(click.BadParameter, match=words):
        parse_time(text, direction, NOW)

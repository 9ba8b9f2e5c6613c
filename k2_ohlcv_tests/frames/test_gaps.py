"""Gaps: told apart by reason, whole across the parts in which a table is read, none between spans."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES, MAX_SAMPLE_ROWS
from k2_ohlcv.frames.checks import Finding
from k2_ohlcv.frames.gaps import ALL_MARKETS, EXPIRED, KINDS, NO_TRADES, NOT_COMPUTED, GapFinder

HOUR = find_timeframe("1h")
START = datetime(2024, 2, 28, tzinfo=UTC)


def hour(number: int) -> datetime:
    return START + timedelta(hours=number)


def rows(*hours: int, symbol: str = "Y") -> pl.DataFrame:
    starts = [hour(number) for number in hours]
    columns = {"symbol": [symbol] * len(starts), "exchange": ["X"] * len(starts), "window_start": starts}
    return pl.DataFrame(columns, schema={name: CANDLE_TYPES[name] for name in columns})


def hours(first: int, end: int) -> Interval:
    return Interval(hour(first), hour(end))


def gaps(
    pending: Sequence[Interval] = (), too_late: Sequence[Interval] = (), expired: datetime | None = None
) -> GapFinder:
    return GapFinder(HOUR, pending=pending, too_late=too_late, expired=expired)


def said(found: Finding) -> list[tuple[str, Interval, str]]:
    shown = [] if found.rows is None else found.rows.to_dicts()
    return [
        (row["symbol"], Interval(row["start"].astimezone(UTC), row["end"].astimezone(UTC)), row["why"])
        for row in shown
    ]


def test_each_gap_has_its_reason() -> None:
    """What is to come goes before what is gone, and before nothing traded."""
    some = gaps(pending=[hours(3, 4)], too_late=[hours(6, 7), hours(3, 4)])
    some.add_candles(rows(0, 2, 4, 5, 7), [hours(0, 24)])
    found = some.build_finding()
    assert said(found) == [
        ("Y", hours(1, 2), NO_TRADES),
        ("Y", hours(3, 4), NOT_COMPUTED),
        ("Y", hours(6, 7), EXPIRED),
    ]
    assert found.note == "spans without a candle: 1 no trades then, 1 expired, 1 not computed yet"
    assert (found.is_ok, found.examined) == (True, 5)


def test_markets_have_their_own_gaps() -> None:
    """One that begins late or ends early has none."""
    some = gaps()
    some.add_candles(pl.concat([rows(0, 1, 9), rows(4, 5, symbol="Z")]), [hours(0, 24)])
    assert said(some.build_finding()) == [("Y", hours(2, 9), NO_TRADES)]


def test_a_gap_goes_on_in_the_next_part() -> None:
    """A table is read a month at a time; a part without any candle is in the gap as well."""
    some = gaps()
    parts = [(rows(0, 1, 5), hours(0, 24)), (rows(), hours(24, 48)), (rows(50), hours(48, 72))]
    for stored, span in parts:
        some.add_candles(stored, [span])
    assert said(some.build_finding()) == [("Y", hours(2, 5), NO_TRADES), ("Y", hours(6, 50), NO_TRADES)]


def test_days_that_are_not_looked_at_are_no_gap() -> None:
    """Be they read together or one after the other."""
    together, one_by_one = gaps(), gaps()
    first, last = hours(0, 24), hours(96, 120)
    together.add_candles(rows(1, 97), [first, last])
    one_by_one.add_candles(rows(1), [first])
    one_by_one.add_candles(rows(97), [last])
    assert said(together.build_finding()) == said(one_by_one.build_finding()) == []


def test_what_is_pending_beyond_the_candles_is_a_span_of_all_markets() -> None:
    """Before the first and after the last; between them each market says for itself."""
    some = gaps(pending=[hours(0, 2), hours(5, 6), hours(30, 31), hours(99, 100)])
    some.add_candles(rows(2, 7), [hours(0, 24)])
    some.add_candles(rows(), [hours(24, 48)])
    assert said(some.build_finding()) == [
        (ALL_MARKETS, hours(0, 2), NOT_COMPUTED),
        (ALL_MARKETS, hours(30, 31), NOT_COMPUTED),
        ("Y", hours(3, 7), NOT_COMPUTED),
    ]


def test_dropped_days_are_one_span_of_all_markets() -> None:
    """However many parts they are read in; it is shown though there are more gaps than are shown."""
    some = gaps(expired=START + 2 * DAY)
    some.add_candles(rows(), [hours(0, 24)])
    some.add_candles(rows(), [hours(24, 48)])
    some.add_candles(rows(*range(48, 148, 2)), [hours(48, 148)])
    found = some.build_finding()
    assert said(found)[0] == (ALL_MARKETS, hours(0, 48), EXPIRED)
    assert found.rows is not None
    assert found.rows.height == MAX_SAMPLE_ROWS
    assert dict(found.numbers) == dict(zip(KINDS, (49, 1, 0), strict=True))


def test_nothing_looked_at_has_no_gap() -> None:
    found = gaps(pending=[hours(0, 1)], expired=START).build_finding()
    assert (found.rows, found.note, found.is_ok) == (None, "", True)

"""Gaps of a candle table: their reasons, and tables that are read in parts or in separate spans."""

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


def gap_finder(
    pending: Sequence[Interval] = (), too_late: Sequence[Interval] = (), expired: datetime | None = None
) -> GapFinder:
    return GapFinder(HOUR, pending=pending, too_late=too_late, expired=expired)


def read_gaps(finding: Finding) -> list[tuple[str, Interval, str]]:
    gap_rows = [] if finding.rows is None else finding.rows.to_dicts()
    return [
        (row["symbol"], Interval(row["start"].astimezone(UTC), row["end"].astimezone(UTC)), row["why"])
        for row in gap_rows
    ]


def test_each_gap_has_its_reason() -> None:
    """Windows not computed yet outrank expired windows, and both outrank windows without trades."""
    finder = gap_finder(pending=[hours(3, 4)], too_late=[hours(6, 7), hours(3, 4)])
    finder.add_candles(rows(0, 2, 4, 5, 7), [hours(0, 24)])
    finding = finder.build_finding()
    assert read_gaps(finding) == [
        ("Y", hours(1, 2), NO_TRADES),
        ("Y", hours(3, 4), NOT_COMPUTED),
        ("Y", hours(6, 7), EXPIRED),
    ]
    assert finding.note == "spans without a candle: 1 no trades then, 1 expired, 1 not computed yet"
    assert (finding.is_ok, finding.examined) == (True, 5)


def test_markets_have_their_own_gaps() -> None:
    """A market that begins late or ends early has no gap there."""
    finder = gap_finder()
    finder.add_candles(pl.concat([rows(0, 1, 9), rows(4, 5, symbol="Z")]), [hours(0, 24)])
    assert read_gaps(finder.build_finding()) == [("Y", hours(2, 9), NO_TRADES)]


def test_a_gap_continues_in_the_next_part() -> None:
    """A table is read a month at a time. A part without any candle is within the gap."""
    finder = gap_finder()
    parts = [(rows(0, 1, 5), hours(0, 24)), (rows(), hours(24, 48)), (rows(50), hours(48, 72))]
    for stored, span in parts:
        finder.add_candles(stored, [span])
    assert read_gaps(finder.build_finding()) == [
        ("Y", hours(2, 5), NO_TRADES),
        ("Y", hours(6, 50), NO_TRADES),
    ]


def test_days_between_the_examined_spans_are_no_gap() -> None:
    """The spans may be read together or one after the other."""
    together, one_by_one = gap_finder(), gap_finder()
    first, last = hours(0, 24), hours(96, 120)
    together.add_candles(rows(1, 97), [first, last])
    one_by_one.add_candles(rows(1), [first])
    one_by_one.add_candles(rows(97), [last])
    assert read_gaps(together.build_finding()) == read_gaps(one_by_one.build_finding()) == []


def test_pending_windows_beyond_the_candles_are_a_gap_of_all_markets() -> None:
    """Before the first and after the last candle the gap is shown once, and between them by market."""
    finder = gap_finder(pending=[hours(0, 2), hours(5, 6), hours(30, 31), hours(99, 100)])
    finder.add_candles(rows(2, 7), [hours(0, 24)])
    finder.add_candles(rows(), [hours(24, 48)])
    assert read_gaps(finder.build_finding()) == [
        (ALL_MARKETS, hours(0, 2), NOT_COMPUTED),
        (ALL_MARKETS, hours(30, 31), NOT_COMPUTED),
        ("Y", hours(3, 7), NOT_COMPUTED),
    ]


def test_dropped_days_are_one_gap_of_all_markets() -> None:
    """The gap is one over all parts. It is in the sample although more gaps exist than are shown."""
    finder = gap_finder(expired=START + 2 * DAY)
    finder.add_candles(rows(), [hours(0, 24)])
    finder.add_candles(rows(), [hours(24, 48)])
    finder.add_candles(rows(*range(48, 148, 2)), [hours(48, 148)])
    finding = finder.build_finding()
    assert read_gaps(finding)[0] == (ALL_MARKETS, hours(0, 48), EXPIRED)
    assert finding.rows is not None
    assert finding.rows.height == MAX_SAMPLE_ROWS
    assert dict(finding.numbers) == dict(zip(KINDS, (49, 1, 0), strict=True))


def test_no_examined_span_means_no_gap() -> None:
    finding = gap_finder(pending=[hours(0, 1)], expired=START).build_finding()
    assert (finding.rows, finding.note, finding.is_ok) == (None, "", True)

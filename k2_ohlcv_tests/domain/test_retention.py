"""What may go: held for all dates, tables and histories, before anything is deleted by it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_ohlcv.domain.intervals import DAY, MICROSECOND, Interval, day_start
from k2_ohlcv.domain.retention import (
    MIN_SMALL_FILES,
    SMALL_FILE_BYTES,
    CandleCoverage,
    SnapshotInfo,
    cutoff,
    limit_frozen_before,
    partitions_to_compact,
    partitions_to_drop,
    retention_anchor,
    snapshots_since_oldest_needed,
    snapshots_to_expire,
)
from k2_ohlcv.domain.timeframe import Grain

moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
durations = st.timedeltas(timedelta(minutes=1), timedelta(days=4000))
grains = st.sampled_from(Grain)


@given(moments, durations, grains, st.lists(moments, max_size=30))
def test_exactly_the_partitions_that_have_ended_go(
    moment: datetime, kept: timedelta, grain: Grain, some: list[datetime]
) -> None:
    """A partition goes if its end, and so its youngest row, is past its time: no earlier and no later."""
    partitions = [grain.partition(one) for one in some]
    gone = partitions_to_drop(partitions, cutoff(moment, kept, grain))
    assert set(gone) == {p for p in partitions if p.end <= moment - kept}
    assert gone == sorted(gone)
    assert all(moment - p.last > kept for p in gone)


@given(moments, durations, grains)
def test_a_line_stands_between_partitions_and_moves_with_time(
    moment: datetime, kept: timedelta, grain: Grain
) -> None:
    line, later = cutoff(moment, kept, grain), cutoff(moment + DAY, kept, grain)
    assert line is not None
    assert later is not None
    assert line == grain.floor(line)
    assert line <= later
    assert moment - line >= kept


@given(moments, durations, durations, grains)
def test_who_keeps_longer_keeps_more(
    moment: datetime, one: timedelta, other: timedelta, grain: Grain
) -> None:
    lines = [cutoff(moment, kept, grain) for kept in sorted([one, other])]
    assert lines[0] is not None
    assert lines[1] is not None
    assert lines[0] >= lines[1]


@pytest.mark.parametrize("as_of", ["2024-03-30T23:59:59", "2024-03-02"])
def test_a_month_goes_when_its_last_day_is_out(as_of: str) -> None:
    """Kept for 30 days: the last day of January ends on 1 February, 30 days before 2 March."""
    january = Grain.MONTH.partition(datetime(2024, 1, 10, tzinfo=UTC))
    february = Grain.MONTH.partition(datetime(2024, 2, 10, tzinfo=UTC))
    moment = datetime.fromisoformat(as_of).replace(tzinfo=UTC)
    assert partitions_to_drop([january, february], cutoff(moment, 30 * DAY, Grain.MONTH)) == [january]
    out = datetime(2024, 3, 2, tzinfo=UTC)
    assert partitions_to_drop([january], cutoff(out, 30 * DAY, Grain.MONTH)) == [january]
    assert partitions_to_drop([january], cutoff(out - MICROSECOND, 30 * DAY, Grain.MONTH)) == []


def test_nothing_goes_without_an_age_or_a_limit() -> None:
    some = datetime(2024, 1, 1, tzinfo=UTC)
    assert cutoff(None, DAY, Grain.DAY) is None
    assert cutoff(some, None, Grain.DAY) is None
    assert cutoff(datetime(1, 1, 2, tzinfo=UTC), 10 * DAY, Grain.DAY) is None
    assert partitions_to_drop([Grain.DAY.partition(some)], None) == []


@given(moments, moments, st.none() | moments)
def test_the_older_of_the_newest_trade_and_now_unless_asked(
    newest: datetime, now: datetime, as_of: datetime | None
) -> None:
    assert retention_anchor(as_of, newest, now) == (as_of or min(newest, now))
    assert retention_anchor(as_of, None, now) == as_of


@given(moments, st.lists(st.none() | moments, max_size=5))
def test_trades_go_no_further_than_every_table_has_them(
    line: datetime, reached: list[datetime | None]
) -> None:
    """And only the tables that hold them back are named."""
    line = Grain.DAY.floor(line)
    coverages = [CandleCoverage(str(i), until, str(i)) for i, until in enumerate(reached)]
    frozen, behind = limit_frozen_before(line, coverages)
    assert frozen is not None
    assert frozen == Grain.DAY.floor(frozen) <= line
    assert all(until is None or frozen <= until for until in reached)
    assert set(behind) == {c for c in coverages if c.until is not None and c.until < line}
    assert frozen == line or frozen in {Grain.DAY.floor(c.until) for c in behind if c.until}
    assert limit_frozen_before(None, coverages) == (None, ())


ids = st.integers(0, 30)


histories = st.lists(st.tuples(ids, moments), unique_by=lambda t: t[0], max_size=30)


@given(histories, st.integers(0, 35), st.none() | moments, st.sets(ids, max_size=4))
def test_only_old_snapshots_that_nothing_protects_expire(
    made: list[tuple[int, datetime]], newest: int, before: datetime | None, protected: set[int]
) -> None:
    """Never one of the newest, a young one or a protected one; every other goes, oldest first."""
    versions = [SnapshotInfo(i, i, at) for i, at in made]
    gone = snapshots_to_expire(versions, keep_newest=newest, older_than=before, protected=protected)
    for version in versions:
        newer = sum(v.sequence > version.sequence for v in versions)
        is_young = before is not None and version.created_at >= before
        stays = newer < newest or is_young or version.snapshot_id in protected
        assert (version.snapshot_id in gone) != stays
    assert gone == sorted(gone)


@given(histories, st.sets(ids, max_size=4))
def test_all_from_the_oldest_watermark_on_are_needed(
    made: list[tuple[int, datetime]], needed: set[int]
) -> None:
    """Of snapshots that watermarks name and the table has: the oldest, and whatever came after it."""
    versions = [SnapshotInfo(i, i, at) for i, at in made]
    first = min((v.sequence for v in versions if v.snapshot_id in needed), default=None)
    since = {v.snapshot_id for v in versions if first is not None and v.sequence >= first}
    assert snapshots_since_oldest_needed(versions, needed) == since


def test_a_snapshot_made_at_the_very_moment_stays() -> None:
    """Older than a moment means before it."""
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    versions = [SnapshotInfo(1, 1, moment - MICROSECOND), SnapshotInfo(2, 2, moment)]
    assert snapshots_to_expire(versions, older_than=moment, protected=()) == [1]


def test_snapshots_of_one_number_are_ordered_by_time() -> None:
    """Tables of Iceberg's first format have no sequence numbers."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    versions = [SnapshotInfo(i, 0, start + at * DAY) for i, at in ((7, 2), (3, 0), (5, 1))]
    assert snapshots_to_expire(versions, keep_newest=1, protected=()) == [3, 5]
    assert snapshots_since_oldest_needed(versions, {5}) == {5, 7}


def test_partitions_of_many_small_files_are_compacted_but_not_one_being_written() -> None:
    days = [Grain.DAY.partition(datetime(2024, 1, i, tzinfo=UTC)) for i in range(1, 6)]
    sizes = {
        days[0]: [1] * MIN_SMALL_FILES,
        days[1]: [1] * (MIN_SMALL_FILES - 1) + [SMALL_FILE_BYTES],
        days[2]: [SMALL_FILE_BYTES] * 100,
        days[3]: [1] * MIN_SMALL_FILES + [SMALL_FILE_BYTES],
        days[4]: [1] * 100,
    }
    assert partitions_to_compact(sizes, {days[4]}) == [days[0], days[3]]


def test_intervals_are_whole() -> None:
    """What goes is a partition as the table has it, and no part of one."""
    line = day_start(datetime(2024, 1, 2, tzinfo=UTC).date())
    assert partitions_to_drop([Interval(line - DAY, line + MICROSECOND)], line) == []

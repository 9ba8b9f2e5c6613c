"""Which partitions and snapshots may be deleted, for any date, table and history."""

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
def test_exactly_the_partitions_past_their_retention_are_dropped(
    moment: datetime, retention: timedelta, grain: Grain, trade_times: list[datetime]
) -> None:
    """A partition is dropped exactly when its end, and so its newest row, is old enough."""
    partitions = [grain.partition(trade_time) for trade_time in trade_times]
    dropped = partitions_to_drop(partitions, cutoff(moment, retention, grain))
    assert set(dropped) == {p for p in partitions if p.end <= moment - retention}
    assert dropped == sorted(dropped)
    assert all(moment - p.last > retention for p in dropped)


@given(moments, durations, grains)
def test_a_cutoff_is_a_partition_start_and_never_decreases(
    moment: datetime, retention: timedelta, grain: Grain
) -> None:
    limit, later = cutoff(moment, retention, grain), cutoff(moment + DAY, retention, grain)
    assert limit is not None
    assert later is not None
    assert limit == grain.floor(limit)
    assert limit <= later
    assert moment - limit >= retention


@given(moments, durations, durations, grains)
def test_a_longer_retention_keeps_more(
    moment: datetime, first: timedelta, second: timedelta, grain: Grain
) -> None:
    cutoffs = [cutoff(moment, retention, grain) for retention in sorted([first, second])]
    assert cutoffs[0] is not None
    assert cutoffs[1] is not None
    assert cutoffs[0] >= cutoffs[1]


@pytest.mark.parametrize("as_of", ["2024-03-30T23:59:59", "2024-03-02"])
def test_a_month_is_dropped_when_its_last_day_is_old_enough(as_of: str) -> None:
    """With a retention of 30 days, January ends on 1 February, 30 days before 2 March."""
    january = Grain.MONTH.partition(datetime(2024, 1, 10, tzinfo=UTC))
    february = Grain.MONTH.partition(datetime(2024, 2, 10, tzinfo=UTC))
    moment = datetime.fromisoformat(as_of).replace(tzinfo=UTC)
    assert partitions_to_drop([january, february], cutoff(moment, 30 * DAY, Grain.MONTH)) == [january]
    due = datetime(2024, 3, 2, tzinfo=UTC)
    assert partitions_to_drop([january], cutoff(due, 30 * DAY, Grain.MONTH)) == [january]
    assert partitions_to_drop([january], cutoff(due - MICROSECOND, 30 * DAY, Grain.MONTH)) == []


def test_nothing_is_dropped_without_an_age_or_a_limit() -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    assert cutoff(None, DAY, Grain.DAY) is None
    assert cutoff(moment, None, Grain.DAY) is None
    assert cutoff(datetime(1, 1, 2, tzinfo=UTC), 10 * DAY, Grain.DAY) is None
    assert partitions_to_drop([Grain.DAY.partition(moment)], None) == []


@given(moments, moments, st.none() | moments)
def test_the_anchor_is_the_newest_trade_or_now_or_the_requested_time(
    newest: datetime, now: datetime, as_of: datetime | None
) -> None:
    assert retention_anchor(as_of, newest, now) == (as_of or min(newest, now))
    assert retention_anchor(as_of, None, now) == as_of


@given(moments, st.lists(st.none() | moments, max_size=5))
def test_trades_are_dropped_only_when_every_candle_table_has_them(
    wanted: datetime, covered: list[datetime | None]
) -> None:
    """Only the tables that limit `frozen_before` are named."""
    wanted = Grain.DAY.floor(wanted)
    coverages = [CandleCoverage(str(i), until, str(i)) for i, until in enumerate(covered)]
    frozen, limiting = limit_frozen_before(wanted, coverages)
    assert frozen is not None
    assert frozen == Grain.DAY.floor(frozen) <= wanted
    assert all(until is None or frozen <= until for until in covered)
    assert set(limiting) == {c for c in coverages if c.until is not None and c.until < wanted}
    assert frozen == wanted or frozen in {Grain.DAY.floor(c.until) for c in limiting if c.until}
    assert limit_frozen_before(None, coverages) == (None, ())


ids = st.integers(0, 30)
histories = st.lists(st.tuples(ids, moments), unique_by=lambda t: t[0], max_size=30)


@given(histories, st.integers(0, 35), st.none() | moments, st.sets(ids, max_size=4))
def test_only_old_snapshots_that_nothing_protects_expire(
    history: list[tuple[int, datetime]], newest: int, older_than: datetime | None, protected: set[int]
) -> None:
    """The newest, the young and the protected snapshots stay. All others expire, oldest first."""
    snapshots = [SnapshotInfo(i, i, at) for i, at in history]
    expired = snapshots_to_expire(snapshots, keep_newest=newest, older_than=older_than, protected=protected)
    for snapshot in snapshots:
        newer = sum(v.sequence > snapshot.sequence for v in snapshots)
        is_young = older_than is not None and snapshot.created_at >= older_than
        is_kept = newer < newest or is_young or snapshot.snapshot_id in protected
        assert (snapshot.snapshot_id in expired) != is_kept
    assert expired == sorted(expired)


@given(histories, st.sets(ids, max_size=4))
def test_all_snapshots_since_the_oldest_watermark_are_needed(
    history: list[tuple[int, datetime]], needed: set[int]
) -> None:
    """The oldest snapshot that a watermark names, and all after it, are needed."""
    snapshots = [SnapshotInfo(i, i, at) for i, at in history]
    first = min((v.sequence for v in snapshots if v.snapshot_id in needed), default=None)
    since = {v.snapshot_id for v in snapshots if first is not None and v.sequence >= first}
    assert snapshots_since_oldest_needed(snapshots, needed) == since


def test_a_snapshot_created_at_the_limit_is_kept() -> None:
    """Only snapshots created before the limit are older than it."""
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    snapshots = [SnapshotInfo(1, 1, moment - MICROSECOND), SnapshotInfo(2, 2, moment)]
    assert snapshots_to_expire(snapshots, older_than=moment, protected=()) == [1]


def test_snapshots_with_equal_sequence_numbers_are_ordered_by_time() -> None:
    """Tables of Iceberg format version 1 have no sequence numbers."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    snapshots = [SnapshotInfo(i, 0, start + at * DAY) for i, at in ((7, 2), (3, 0), (5, 1))]
    assert snapshots_to_expire(snapshots, keep_newest=1, protected=()) == [3, 5]
    assert snapshots_since_oldest_needed(snapshots, {5}) == {5, 7}


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


def test_only_whole_partitions_are_dropped() -> None:
    """A partition that ends after the cutoff is kept whole."""
    limit = day_start(datetime(2024, 1, 2, tzinfo=UTC).date())
    assert partitions_to_drop([Interval(limit - DAY, limit + MICROSECOND)], limit) == []

"""Retention of candles: which partitions are dropped, how disk space is freed, and which files stay."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.intervals import DAY, day_start
from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE, read_bound
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations.retention import retention
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.forty_days import (
    END,
    EXPIRE_ALL,
    FIRST_DAY,
    FORTY_DAYS,
    apply_retention,
    assert_candles_kept,
    forty_days_of_trades,
    numbered_trade,
    refresh_tables,
    retention_policy,
    table_report,
)

MINUTE, DAILY = find_timeframe("1m"), find_timeframe("1d")


def usage(home: Path) -> int:
    return sum(f.stat().st_size for f in (home / "warehouse").rglob("*") if f.is_file())


def empty_folders(home: Path) -> list[Path]:
    """Partition folders without files. Dropped tables of earlier tests may have left some."""
    return sorted(p for p in (home / "warehouse").rglob("*_day=*") if not list(p.iterdir()))


def test_a_dry_run_reports_and_drops_nothing(forty_days: EngineLake) -> None:
    """Age is measured from the newest trade, so historical data is not past retention years later."""
    files = {p: p.stat().st_mtime_ns for p in (forty_days.home / "warehouse").rglob("*") if p.is_file()}
    report = retention(forty_days.lake, retention_policy(K2_RETENTION_1M="30d", K2_RETENTION_1D="20d"))
    assert not report.applied
    minute_report = table_report(report, "1m")
    assert minute_report.cutoff == day_start((END - 30 * DAY - timedelta(hours=4)).date())
    assert minute_report.partitions == tuple(
        (FIRST_DAY + i * DAY).date().isoformat() for i in range((minute_report.cutoff - FIRST_DAY).days)
    )
    assert minute_report.rows == 6 * len(minute_report.partitions)
    assert minute_report.bytes > 0
    assert (minute_report.files_removed, minute_report.bytes_freed) == (0, 0)
    assert table_report(report, "1d").partitions == ("2024-01-01",)
    assert table_report(report, "5m").partitions == ()
    assert table_report(report, "trades").cutoff is None
    assert report.as_json()["applied"] is False
    assert {
        p: p.stat().st_mtime_ns for p in (forty_days.home / "warehouse").rglob("*") if p.is_file()
    } == files


def test_partitions_past_retention_are_dropped(forty_days: EngineLake) -> None:
    """The applied run drops what the dry run reported. Other candles stay, and a refresh adds nothing."""
    settings = retention_policy(K2_RETENTION_1M="30d", K2_RETENTION_1D="20d")
    dry_run = retention(forty_days.lake, settings)
    applied = retention(forty_days.lake, settings, apply=True)
    for planned, done in zip(dry_run.tables, applied.tables, strict=True):
        assert (planned.partitions, planned.rows, planned.bytes) == (done.partitions, done.rows, done.bytes)
    assert read_bound(forty_days.lake.candles(MINUTE), EXPIRED_BEFORE) == table_report(applied, "1m").cutoff
    assert_candles_kept(forty_days.lake, FORTY_DAYS)
    assert retention(forty_days.lake, settings, apply=True).tables[1].partitions == ()
    refresh_tables(forty_days)
    assert_candles_kept(forty_days.lake, FORTY_DAYS)


def test_dropping_is_one_commit_of_metadata_alone(forty_days: EngineLake) -> None:
    """The commit removes files, writes none, and keeps the watermark."""
    before = forty_days.lake.candles(MINUTE)
    apply_retention(forty_days.lake, K2_RETENTION_1M="30d")
    after = forty_days.lake.candles(MINUTE)
    assert len(after.snapshots()) == len(before.snapshots()) + 1
    assert set(lakes.list_data_files(after)) < set(lakes.list_data_files(before))
    summary = after.current_snapshot().summary
    assert summary.operation.value == "delete"
    assert Watermark.from_table(after) == Watermark.from_table(before)


def test_reported_bytes_are_freed_on_disk(sail: EngineLake) -> None:
    """The freed bytes are within 5% of the report, and empty folders are removed."""
    lakes.add_trades(sail.lake, forty_days_of_trades(timedelta(minutes=10)))
    refresh_tables(sail)
    before = usage(sail.home)
    folders_before = empty_folders(sail.home)
    settings = retention_policy(
        K2_RETENTION_1M="10d", K2_RETENTION_5M="10d", K2_RETENTION_TRADES="20d", **EXPIRE_ALL
    )
    report = retention(sail.lake, settings, apply=True)
    bytes_less = before - usage(sail.home)
    bytes_reported = sum(t.bytes_freed for t in report.tables)
    assert bytes_reported > 0
    assert abs(bytes_less - bytes_reported) <= 0.05 * bytes_reported
    assert table_report(report, "1m").bytes_freed > 0.8 * table_report(report, "1m").bytes
    assert empty_folders(sail.home) == folders_before
    assert_candles_kept(sail.lake, forty_days_of_trades(timedelta(minutes=10)))


def test_remaining_snapshots_are_readable(forty_days: EngineLake) -> None:
    """Tagged snapshots and branches keep their files."""
    table = forty_days.lake.candles(MINUTE)
    tagged_id = table_history.current_snapshot_id(table)
    table.manage_snapshots().create_tag(tagged_id, "audit").commit()
    table = forty_days.lake.candles(MINUTE)
    rows = table.scan(snapshot_id=tagged_id).to_arrow().num_rows
    forty_days.lake.trades().manage_snapshots().create_branch(
        table_history.current_snapshot_id(forty_days.lake.trades()), "b"
    ).commit()
    apply_retention(forty_days.lake, K2_RETENTION_1M="30d", **EXPIRE_ALL)
    candles = forty_days.lake.candles(MINUTE)
    assert candles.scan(snapshot_id=tagged_id).to_arrow().num_rows == rows
    for table in [forty_days.lake.trades(), *(forty_days.lake.candles(t) for t in TIMEFRAMES)]:
        for snapshot in table.snapshots():
            table.scan(snapshot_id=snapshot.snapshot_id).to_arrow()


def test_young_snapshots_stay(forty_days: EngineLake) -> None:
    """Snapshots expire five days after their commit."""
    lakes.add_trades(forty_days.lake, [numbered_trade(10_000, END - DAY)])
    refresh_tables(forty_days)
    assert all(t.snapshots_expired == 0 for t in apply_retention(forty_days.lake).tables)
    later = datetime.now(UTC) + 5 * DAY + timedelta(minutes=1)
    report = retention(forty_days.lake, retention_policy(), apply=True, now=later)
    assert all(t.snapshots_expired for t in report.tables)
    tables = [forty_days.lake.trades(), *(forty_days.lake.candles(timeframe) for timeframe in TIMEFRAMES)]
    assert all(len(table.snapshots()) == 1 for table in tables)


def test_age_is_measured_from_the_newest_trade(forty_days: EngineLake) -> None:
    """A given date replaces the newest trade."""
    settings = retention_policy(K2_RETENTION_1M="30d")
    default = table_report(retention(forty_days.lake, settings), "1m")
    assert len(default.partitions) == 9
    later_date = table_report(retention(forty_days.lake, settings, as_of=END + 10 * DAY), "1m")
    assert len(later_date.partitions) == 20
    earlier_date = table_report(retention(forty_days.lake, settings, now=END - 5 * DAY), "1m")
    assert len(earlier_date.partitions) == 5
    assert retention(forty_days.lake, settings, as_of=FIRST_DAY).tables[1].partitions == ()


def test_a_future_date_expires_no_empty_days(forty_days: EngineLake) -> None:
    """`expired_before` is the end of the dropped partitions, so later trades still get candles."""
    retention(forty_days.lake, retention_policy(K2_RETENTION_1M="30d"), apply=True, as_of=END + 400 * DAY)
    assert lakes.read_candles(forty_days.lake, MINUTE) == []
    assert read_bound(forty_days.lake.candles(MINUTE), EXPIRED_BEFORE) == END
    lakes.add_trades(forty_days.lake, [numbered_trade(10_000, END + DAY)])
    forty_days.refresh(MINUTE)
    assert lakes.read_candles(forty_days.lake, MINUTE) == aggregate(
        [numbered_trade(10_000, END + DAY)], MINUTE
    )


def test_one_table_alone(forty_days: EngineLake) -> None:
    """Retention of one table leaves the others unchanged."""
    settings = retention_policy(K2_RETENTION_1M="30d", K2_RETENTION_TRADES="20d")
    report = retention(forty_days.lake, settings, apply=True, timeframes=[MINUTE])
    assert [t.table for t in report.tables] == [MINUTE.table]
    assert read_bound(forty_days.lake.trades(), FROZEN_BEFORE) is None


def test_only_old_orphans_inside_a_table_are_removed(forty_days: EngineLake, tmp_path: Path) -> None:
    """Old files beside the table, behind a link or hidden stay."""
    table = Path(forty_days.lake.candles(MINUTE).location().removeprefix("file://"))
    other = tmp_path / "other"
    other.mkdir()
    (table / "data" / "link").symlink_to(other, target_is_directory=True)
    protected = [
        table.parent / "beside.parquet",
        table / "notes.txt",
        other / "external.parquet",
        table / "data" / ".hidden.crc",
    ]
    orphans = [
        table / "data" / "window_start_day=2024-01-20" / "left.parquet",
        table / "metadata" / "left.avro",
    ]
    young = table / "data" / "young.parquet"
    for path in [*protected, *orphans, young]:
        path.write_bytes(b"x" * 1000)
    for path in [*protected, *orphans]:
        old_time = time.time() - ORPHAN_AGE.total_seconds() - 60
        os.utime(path, (old_time, old_time))
    report = table_report(apply_retention(forty_days.lake), "1m")
    assert report.files_removed == len(orphans)
    assert [p.exists() for p in protected] == [True] * len(protected)
    assert [p.exists() for p in orphans] == [False] * len(orphans)
    assert young.exists()
    (table / "data" / "link").unlink()
    forty_days.assert_equal_to_trades(FORTY_DAYS)


def test_an_empty_lake_is_no_error(sail: EngineLake) -> None:
    """No partition is dropped and no cutoff is set."""
    report = apply_retention(sail.lake, K2_RETENTION_TRADES="20d")
    assert all(t.partitions == () and t.cutoff is None for t in report.tables)

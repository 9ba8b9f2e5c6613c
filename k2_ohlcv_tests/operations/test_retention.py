"""Retention on real tables: what is past its time goes, the disk gets its space back, and truth stays."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Candle, Trade, aggregate
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY, day_start
from k2_ohlcv.domain.retention import ORPHAN_AGE, RetentionPolicy
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE, read_bound
from k2_ohlcv.lake.maintenance import partition_drops
from k2_ohlcv.lake.schemas import TRADES_SPEC
from k2_ohlcv.lake.watermark import Watermark
from k2_ohlcv.operations.reconcile import preview_refresh, rebuild, refresh
from k2_ohlcv.operations.retention import retention
from k2_ohlcv.operations.retention_report import RetentionReport, TableReport
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.crash import interrupt_windows
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import make_trade

MINUTE, DAILY = find_timeframe("1m"), find_timeframe("1d")
#: Forty days from here on, over a month's end.
FIRST = datetime(2024, 1, 20, tzinfo=UTC)
DAYS = 40
END = FIRST + DAYS * DAY
#: All snapshots but those that must stay are old.
FREEING = {"K2_SNAPSHOT_DAYS": "0"}


def trade(number: int, at: datetime) -> Trade:
    return make_trade(number, at, number % 7 + 100, "0.5")


def history(each: timedelta = timedelta(hours=4)) -> list[Trade]:
    moments = [FIRST + i * each for i in range(DAYS * DAY // each)]
    return [trade(i, at) for i, at in enumerate(moments)]


def asked(**environ: str) -> RetentionPolicy:
    return Settings.from_environ(environ).retention


def refresh_all(each_engine: EngineLake) -> None:
    for each in TIMEFRAMES:
        refresh(each_engine.lake, each_engine.engine, each, cache=each_engine.run.windows)


@pytest.fixture
def filled(sail: EngineLake) -> EngineLake:
    """Forty days of trades, all tables up to date."""
    lakes.add_trades(sail.lake, history())
    refresh_all(sail)
    return sail


def of(report: RetentionReport, name: str) -> TableReport:
    (found,) = [t for t in report.tables if t.table.endswith(name)]
    return found


def usage(home: Path) -> int:
    """Bytes of the warehouse's files."""
    return sum(f.stat().st_size for f in (home / "warehouse").rglob("*") if f.is_file())


def empty_folders(home: Path) -> list[Path]:
    """Partition folders without files. Tables that earlier tests dropped may have left some."""
    return sorted(p for p in (home / "warehouse").rglob("*_day=*") if not list(p.iterdir()))


def kept_candles(some: list[Trade], each: Timeframe, line: datetime | None) -> list[Candle]:
    return [c for c in aggregate(some, each) if line is None or c.window_start >= line]


def assert_right(lake: Lake, some: list[Trade]) -> None:
    """Every table has the candles of these trades, from its line on."""
    for each in TIMEFRAMES:
        line = read_bound(lake.candles(each), EXPIRED_BEFORE)
        assert lakes.read_candles(lake, each) == kept_candles(some, each, line), each.name


def test_a_dry_run_says_what_goes_and_does_nothing(filled: EngineLake) -> None:
    """Ages are measured from the newest trade, so that years later nothing more goes."""
    files = {p: p.stat().st_mtime_ns for p in (filled.home / "warehouse").rglob("*") if p.is_file()}
    report = retention(filled.lake, asked(K2_RETENTION_1M="30d", K2_RETENTION_1D="20d"))
    assert not report.applied
    found = of(report, "1m")
    assert found.cutoff == day_start((END - 30 * DAY - timedelta(hours=4)).date())
    assert found.partitions == tuple(
        (FIRST + i * DAY).date().isoformat() for i in range((found.cutoff - FIRST).days)
    )
    assert found.rows == 6 * len(found.partitions)
    assert found.bytes > 0
    assert (found.files_removed, found.bytes_freed) == (0, 0)
    assert of(report, "1d").partitions == ("2024-01-01",)
    assert of(report, "5m").partitions == ()
    assert of(report, "trades").cutoff is None
    assert report.as_json()["applied"] is False
    assert {p: p.stat().st_mtime_ns for p in (filled.home / "warehouse").rglob("*") if p.is_file()} == files


def test_what_is_past_its_time_goes_and_the_rest_reads(filled: EngineLake) -> None:
    settings = asked(K2_RETENTION_1M="30d", K2_RETENTION_1D="20d")
    planned = retention(filled.lake, settings)
    applied = retention(filled.lake, settings, apply=True)
    for one, other in zip(planned.tables, applied.tables, strict=True):
        assert (one.partitions, one.rows, one.bytes) == (other.partitions, other.rows, other.bytes)
    assert read_bound(filled.lake.candles(MINUTE), EXPIRED_BEFORE) == of(applied, "1m").cutoff
    assert_right(filled.lake, history())
    assert retention(filled.lake, settings, apply=True).tables[1].partitions == ()
    refresh_all(filled)
    assert_right(filled.lake, history())


def test_dropping_is_one_commit_of_metadata_alone(filled: EngineLake) -> None:
    before = filled.lake.candles(MINUTE)
    retention(filled.lake, asked(K2_RETENTION_1M="30d"), apply=True)
    after = filled.lake.candles(MINUTE)
    assert len(after.snapshots()) == len(before.snapshots()) + 1
    assert set(lakes.list_data_files(after)) < set(lakes.list_data_files(before))
    summary = after.current_snapshot().summary
    assert summary is not None
    assert summary.operation.value == "delete"
    assert Watermark.from_table(after) == Watermark.from_table(before)


def test_the_disk_gets_back_what_is_reported(sail: EngineLake) -> None:
    """Within 5%, with folders that are empty now gone as well."""
    lakes.add_trades(sail.lake, history(timedelta(minutes=10)))
    refresh_all(sail)
    before = usage(sail.home)
    abandoned = empty_folders(sail.home)
    settings = asked(K2_RETENTION_1M="10d", K2_RETENTION_5M="10d", K2_RETENTION_TRADES="20d", **FREEING)
    report = retention(sail.lake, settings, apply=True)
    fallen = before - usage(sail.home)
    freed = sum(t.bytes_freed for t in report.tables)
    assert freed > 0
    assert abs(fallen - freed) <= 0.05 * freed
    assert of(report, "1m").bytes_freed > 0.8 * of(report, "1m").bytes
    assert empty_folders(sail.home) == abandoned
    assert_right(sail.lake, history(timedelta(minutes=10)))


def test_time_travel_works_in_the_snapshots_that_are_kept(filled: EngineLake) -> None:
    table = filled.lake.candles(MINUTE)
    tagged = table_history.current_snapshot_id(table)
    table.manage_snapshots().create_tag(tagged, "audit").commit()
    table = filled.lake.candles(MINUTE)
    rows = table.scan(snapshot_id=tagged).to_arrow().num_rows
    filled.lake.trades().manage_snapshots().create_branch(
        table_history.current_snapshot_id(filled.lake.trades()), "b"
    ).commit()
    retention(filled.lake, asked(K2_RETENTION_1M="30d", **FREEING), apply=True)
    kept = filled.lake.candles(MINUTE)
    assert kept.scan(snapshot_id=tagged).to_arrow().num_rows == rows
    for each in [filled.lake.trades(), *(filled.lake.candles(t) for t in TIMEFRAMES)]:
        for snapshot in each.snapshots():
            each.scan(snapshot_id=snapshot.snapshot_id).to_arrow()


def test_trades_keep_every_snapshot_from_the_oldest_watermark_on(filled: EngineLake) -> None:
    watermark = table_history.current_snapshot_id(filled.lake.trades())
    for i in range(3):
        lakes.add_trades(filled.lake, [trade(10_000 + i, END - DAY)])
        refresh(filled.lake, filled.engine, MINUTE)
    report = retention(filled.lake, asked(**FREEING), apply=True)
    assert of(report, "trades").snapshots_expired == 0
    assert len(filled.lake.trades().snapshots()) == 4
    assert preview_refresh(filled.lake, DAILY).reason is None
    assert Watermark.from_table(filled.lake.candles(DAILY)).snapshot_id == watermark
    refresh_all(filled)
    assert of(retention(filled.lake, asked(**FREEING), apply=True), "trades").snapshots_expired == 3
    assert len(filled.lake.trades().snapshots()) == 1
    assert len(filled.lake.candles(MINUTE).snapshots()) == 1


def test_young_snapshots_stay(filled: EngineLake) -> None:
    lakes.add_trades(filled.lake, [trade(10_000, END - DAY)])
    refresh_all(filled)
    assert all(t.snapshots_expired == 0 for t in retention(filled.lake, asked(), apply=True).tables)
    later = datetime.now(UTC) + 5 * DAY + timedelta(minutes=1)
    report = retention(filled.lake, asked(), apply=True, now=later)
    assert all(t.snapshots_expired for t in report.tables)
    tables = [filled.lake.trades(), *(filled.lake.candles(each) for each in TIMEFRAMES)]
    assert all(len(table.snapshots()) == 1 for table in tables)


def test_expired_trades_freeze_their_candles(filled: EngineLake) -> None:
    """Refresh does not see the expiry as deletions, and every candle from before stays as it was."""
    report = retention(filled.lake, asked(K2_RETENTION_TRADES="20d", **FREEING), apply=True)
    gone = of(report, "trades")
    assert gone.partitions
    assert gone.blocked == ()
    assert read_bound(filled.lake.trades(), FROZEN_BEFORE) == gone.cutoff
    for each in TIMEFRAMES:
        done = refresh(filled.lake, filled.engine, each)
        assert (done.plan.intervals, done.plan.skipped, done.plan.reason) == ((), 0, None)
    lakes.assert_equal_to_trades(filled.lake, history())
    with pytest.raises(UsageError, match="frozen"):
        rebuild(filled.lake, filled.engine, MINUTE, [Grain.DAY.partition(FIRST)])
    again = retention(filled.lake, asked(K2_RETENTION_TRADES="20d", **FREEING), apply=True)
    assert of(again, "trades").partitions == ()


def test_candles_that_were_frozen_outlive_their_trades_table(filled: EngineLake) -> None:
    """Made anew before any refresh, it has no line: every candle table has the line from retention itself."""
    retention(filled.lake, asked(K2_RETENTION_TRADES="20d", **FREEING), apply=True)
    line = read_bound(filled.lake.trades(), FROZEN_BEFORE)
    assert line is not None
    assert not any(preview_refresh(filled.lake, each).intervals for each in TIMEFRAMES), (
        "nothing is open by the line"
    )
    filled.lake.catalog.drop_table(TRADES_SPEC.identifier)
    lakes.add_trades(filled.lake, [t for t in history() if t.timestamp >= line])
    refresh_all(filled)
    lakes.assert_equal_to_trades(filled.lake, history())


def test_a_table_that_is_behind_holds_the_trades_back(filled: EngineLake) -> None:
    """Up to the first change that it has not taken in, and the report says which table and why."""
    late = trade(10_000, FIRST + 10 * DAY)
    lakes.add_trades(filled.lake, [late])
    for each in TIMEFRAMES[:-1]:
        refresh(filled.lake, filled.engine, each)
    settings = asked(K2_RETENTION_TRADES="20d")
    report = of(retention(filled.lake, settings, apply=True), "trades")
    assert len(report.partitions) == 10
    assert report.blocked == (f"{DAILY.table} has dirty windows from 2024-01-30: refresh it first",)
    refresh(filled.lake, filled.engine, DAILY)
    report = of(retention(filled.lake, settings, apply=True), "trades")
    assert len(report.partitions) == 9
    assert report.blocked == ()
    refresh_all(filled)
    lakes.assert_equal_to_trades(filled.lake, [*history(), late])


def test_without_a_watermark_no_trades_go(filled: EngineLake) -> None:
    with filled.lake.candles(DAILY).transaction() as transaction:
        transaction.remove_properties("k2.trades-snapshot-id")
    report = of(retention(filled.lake, asked(K2_RETENTION_TRADES="20d"), apply=True), "trades")
    assert report.partitions == ()
    assert report.blocked[0] == "gold_ohlcv_1d: the watermark was removed: refresh it first"
    assert len(filled.lake.trades().scan().to_arrow()) == len(history())


def test_the_newest_trade_holds_the_time(filled: EngineLake) -> None:
    """Unless a date is given: then that is what ages are measured from."""
    settings = asked(K2_RETENTION_1M="30d")
    feed_died = of(retention(filled.lake, settings), "1m")
    assert len(feed_died.partitions) == 9
    given = of(retention(filled.lake, settings, as_of=END + 10 * DAY), "1m")
    assert len(given.partitions) == 20
    earlier = of(retention(filled.lake, settings, now=END - 5 * DAY), "1m")
    assert len(earlier.partitions) == 5
    assert retention(filled.lake, settings, as_of=FIRST).tables[1].partitions == ()


def test_a_day_to_come_does_not_close_the_days_until_then(filled: EngineLake) -> None:
    """The line moves to the end of what went, and not beyond: trades of tomorrow still get candles."""
    retention(filled.lake, asked(K2_RETENTION_1M="30d"), apply=True, as_of=END + 400 * DAY)
    assert lakes.read_candles(filled.lake, MINUTE) == []
    assert read_bound(filled.lake.candles(MINUTE), EXPIRED_BEFORE) == END
    lakes.add_trades(filled.lake, [trade(10_000, END + DAY)])
    refresh(filled.lake, filled.engine, MINUTE)
    assert lakes.read_candles(filled.lake, MINUTE) == aggregate([trade(10_000, END + DAY)], MINUTE)


def test_one_table_alone(filled: EngineLake) -> None:
    settings = asked(K2_RETENTION_1M="30d", K2_RETENTION_TRADES="20d")
    report = retention(filled.lake, settings, apply=True, timeframes=[MINUTE])
    assert [t.table for t in report.tables] == [MINUTE.table]
    assert read_bound(filled.lake.trades(), FROZEN_BEFORE) is None


def test_nothing_outside_the_tables_is_touched(filled: EngineLake, tmp_path: Path) -> None:
    """Old files beside the tables, behind a link and in folders of nobody's stay; old ones inside go."""
    table = Path(filled.lake.candles(MINUTE).location().removeprefix("file://"))
    other = tmp_path / "other"
    other.mkdir()
    (table / "data" / "link").symlink_to(other, target_is_directory=True)
    stays = [
        table.parent / "beside.parquet",
        table / "notes.txt",
        other / "theirs.parquet",
        table / "data" / ".hidden.crc",
    ]
    goes = [table / "data" / "window_start_day=2024-01-20" / "left.parquet", table / "metadata" / "left.avro"]
    young = table / "data" / "young.parquet"
    for path in [*stays, *goes, young]:
        path.write_bytes(b"x" * 1000)
    for path in [*stays, *goes]:
        old = time.time() - ORPHAN_AGE.total_seconds() - 60
        os.utime(path, (old, old))
    report = of(retention(filled.lake, asked(), apply=True), "1m")
    assert report.files_removed == len(goes)
    assert [p.exists() for p in stays] == [True] * len(stays)
    assert [p.exists() for p in goes] == [False] * len(goes)
    assert young.exists()
    (table / "data" / "link").unlink()
    lakes.assert_equal_to_trades(filled.lake, history())


def test_small_files_of_trades_become_few(sail: EngineLake) -> None:
    """But not those of the newest day, and no window is dirtied by it."""
    some = [trade(i, FIRST + (i % 2) * DAY + timedelta(minutes=i)) for i in range(40)]
    for first in range(0, 40, 2):
        lakes.add_trades(sail.lake, some[first : first + 2])
    refresh_all(sail)
    report = of(retention(sail.lake, asked(), apply=True), "trades")
    assert (report.compacted.partitions, report.compacted.before, report.compacted.after) == (1, 20, 1)
    assert report.files_per_partition == (20, 10.5)
    for each in TIMEFRAMES:
        done = refresh(sail.lake, sail.engine, each)
        assert (done.plan.intervals, done.plan.files_read, done.plan.reason) == ((), 0, None)
    lakes.assert_equal_to_trades(sail.lake, some)
    (file,) = [t.file for t in sail.lake.trades().scan().plan_files() if t.file.record_count > 2]
    rows = sail.lake.trades().scan(row_filter=f"timestamp < '{(FIRST + DAY).isoformat()}'").to_arrow()
    assert file.record_count == rows.num_rows == 20
    assert rows["timestamp"].to_pylist() == sorted(rows["timestamp"].to_pylist())
    assert of(retention(sail.lake, asked(), apply=True), "trades").compacted.before == 0


def test_an_empty_lake_is_no_error(sail: EngineLake) -> None:
    report = retention(sail.lake, asked(K2_RETENTION_TRADES="20d"), apply=True)
    assert all(t.partitions == () and t.cutoff is None for t in report.tables)


def test_retention_in_the_middle_of_a_refresh(filled: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """It drops, expires and removes what the refresh has planned with, which starts over and ends right."""
    late = [trade(10_000, FIRST + DAY), trade(10_001, END - DAY)]
    lakes.add_trades(filled.lake, late)
    settings = asked(K2_RETENTION_1M="30d", **FREEING)
    calls = interrupt_windows(monkeypatch, lambda: retention(filled.lake, settings, apply=True))
    report = refresh(filled.lake, filled.engine, MINUTE)
    assert calls[0] == 2
    assert (report.plan.skipped, report.counts.added + report.counts.changed) == (1, 1)
    refresh_all(filled)
    assert_right(filled.lake, [*history(), *late])
    assert read_bound(filled.lake.candles(MINUTE), EXPIRED_BEFORE) is not None


def test_a_refresh_in_the_middle_of_retention(filled: EngineLake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each commit of retention is preceded by one of a refresh: it looks again, and drops no less or more."""
    some, real, numbers = history(), partition_drops.commit_change, iter(range(10_000, 20_000))

    def commit(table: Table, change: TableCommit) -> Table:
        if table.name()[-1] == MINUTE.table and next(numbers) < 10_003:
            some.append(trade(next(numbers), END - DAY))
            lakes.add_trades(filled.lake, some[-1:])
            refresh(filled.lake, filled.engine, MINUTE)
        return real(table, change)

    monkeypatch.setattr(partition_drops, "commit_change", commit)
    settings = asked(K2_RETENTION_1M="30d", K2_RETENTION_TRADES="20d", **FREEING)
    report = retention(filled.lake, settings, apply=True)
    assert len(of(report, "1m").partitions) == 9
    assert len(of(report, "trades").partitions) == 19
    refresh_all(filled)
    assert_right(filled.lake, some)


def test_a_late_trade_in_the_middle_of_retention_is_not_lost(
    filled: EngineLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes for a day whose trades are being dropped: they stay until the candles have taken it in."""
    late, real, times = trade(10_000, FIRST + 5 * DAY), partition_drops.commit_change, [1]

    def commit(table: Table, change: TableCommit) -> Table:
        if table.name() == filled.lake.trades().name() and times:
            times.pop()
            lakes.add_trades(filled.lake, [late])
        return real(table, change)

    monkeypatch.setattr(partition_drops, "commit_change", commit)
    report = of(retention(filled.lake, asked(K2_RETENTION_TRADES="20d"), apply=True), "trades")
    assert not times
    assert len(report.partitions) == 5
    assert len(report.blocked) == len(TIMEFRAMES)
    refresh_all(filled)
    lakes.assert_equal_to_trades(filled.lake, [*history(), late])

"""Which manifests a search for data files reads, and that it finds the same files as reading all of them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestEntry, ManifestFile
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.table import Table
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    YearTransform,
)
from pyiceberg.types import IcebergType, LongType, TimestamptzType

from k2_ohlcv.domain.intervals import DAY, Interval, to_micros
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.lake import commit
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_change
from k2_ohlcv.lake.metadata import files, manifests
from k2_ohlcv.lake.metadata.file_search import data_files_within, manifest_span, newest_data_file
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.manifests import snapshot_manifests
from k2_ohlcv.lake.metadata.snapshot_diff import diff_snapshots
from k2_ohlcv.operations.planning import plan_refresh
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.external_trades import TRADE_ROW, open_external_trades
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The manifests that are opened from now on, as in a new process."""
    paths: list[str] = []
    fetch = ManifestFile.fetch_manifest_entry

    def record(manifest: ManifestFile, io: FileIO, discard_deleted: bool = True) -> list[ManifestEntry]:
        paths.append(manifest.manifest_path)
        return fetch(manifest, io, discard_deleted)

    monkeypatch.setattr(ManifestFile, "fetch_manifest_entry", record)
    return paths


def forget_manifests(opened: list[str]) -> None:
    """Begin as a new process does, which has read nothing."""
    for reader in (manifests._files_with_sequence, manifests._list_manifests, files._manifest_spans):
        reader.cache_clear()
    opened.clear()


def add_days(lake: Lake, days: Sequence[int]) -> Table:
    """Append a trade to each day, each in its own manifest."""
    for day in days:
        table = lakes.add_trades(lake, [make_trade(day, AT + day * DAY)])
    return table


def current_manifests(table: Table) -> set[str]:
    return set(snapshot_manifests(table, table.metadata.current_snapshot_id))


@pytest.mark.parametrize("stored_days", [5, 25])
def test_a_plan_opens_only_manifests_of_the_changed_and_the_newest_day(
    lake: Lake, opened: list[str], stored_days: int
) -> None:
    """Two trades arrive late in day 2. The manifests of other days are not opened, however many there are."""
    lakes.set_watermark(lake, MINUTE, table_history.current_snapshot_id(add_days(lake, range(stored_days))))
    before = current_manifests(lake.trades())
    late = [make_trade("late", AT + 2 * DAY + HOUR), make_trade("later", AT + 2 * DAY)]
    lakes.add_trades(lake, late)
    forget_manifests(opened)
    plan = plan_refresh(lake.candles(MINUTE), lake.trades(), MINUTE)
    assert plan.intervals == tuple(MINUTE.window(t.timestamp) for t in reversed(late))
    (new,) = current_manifests(lake.trades()) - before
    assert new in opened
    assert len(set(opened)) == len(opened) == 3  # the new one, that of day 2, and that of the newest day


def test_a_plan_without_changes_opens_only_the_manifest_of_the_newest_day(
    lake: Lake, opened: list[str]
) -> None:
    """The newest trade is in the watermark."""
    lakes.set_watermark(lake, MINUTE, table_history.current_snapshot_id(add_days(lake, range(5))))
    forget_manifests(opened)
    assert plan_refresh(lake.candles(MINUTE), lake.trades(), MINUTE).is_current
    assert len(opened) == 1


def test_merged_manifests_are_not_changed_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files in other manifests differ in nothing, also beside a new file."""
    before = table_history.current_snapshot_id(add_days(lake, range(4)))
    paths = current_manifests(lake.trades())
    monkeypatch.setattr(commit, "_MIN_MANIFESTS_TO_MERGE", 2)
    merged = commit_change(lake.trades(), TableCommit())
    assert len(current_manifests(merged)) == 1
    assert not current_manifests(merged) & paths
    diff = diff_snapshots(merged, before, table_history.current_snapshot_id(merged))
    assert (diff.removed_files, diff.added_files, diff.bounds) == ((), (), [])
    added = add_days(lake, [9])
    diff = diff_snapshots(added, before, table_history.current_snapshot_id(added))
    assert (diff.removed_files, [f.span.start for f in diff.added_files]) == ((), [AT + 9 * DAY])


@pytest.mark.parametrize(
    ("kind", "transform"),
    [
        (TimestamptzType(), HourTransform()),
        (TimestamptzType(), DayTransform()),
        (TimestamptzType(), MonthTransform()),
        (TimestamptzType(), YearTransform()),
        (TimestamptzType(), IdentityTransform()),
        (LongType(), IdentityTransform()),
        (LongType(), TruncateTransform(2**30)),
        (LongType(), BucketTransform(4)),
        (LongType(), None),
    ],
)
def test_a_search_finds_the_files_that_reading_all_finds(
    lake: Lake, kind: IcebergType, transform: Transform[Any, Any] | None
) -> None:
    """In tables of every partitioning, with rows without a time, of impossible times, and over many days."""
    spec = PartitionSpec(*([PartitionField(4, 1000, transform, "p")] if transform else []))
    table = external_tables.create_table(
        lake, external_tables.COLUMNS | {"timestamp": kind}, [as_row(kind, AT)], spec=spec
    )
    late, future = AT + 40 * DAY, datetime(2150, 1, 1, tzinfo=UTC)
    for batch in ([AT + HOUR, late], [AT + DAY], [None, AT], [future], [future, AT + 3 * DAY]):
        external_tables.add_rows(table, [as_row(kind, at) for at in batch])
    trades = open_external_trades(lake, table)
    snapshot = trades.metadata.current_snapshot_id
    everything = live_files(trades, snapshot)
    edge = possible_trade_times().last
    for at in (AT, AT + HOUR, AT + DAY, AT + 2 * DAY, AT + 3 * DAY, late, edge, AT - 400 * DAY):
        wanted = [Interval(at, at + HOUR), Interval(at + 5 * DAY, at + 6 * DAY)]
        found = {f.path for f in data_files_within(trades, snapshot, wanted)}
        assert found == {f.path for f in everything if any(map(f.span.intersect, wanted))}
    newest = newest_data_file(trades, snapshot)
    assert newest
    assert newest.latest == max(f.latest for f in everything if f.latest)


def as_row(kind: IcebergType, at: datetime | None) -> dict[str, object]:
    value = to_micros(at) if at and isinstance(kind, LongType) else at
    return TRADE_ROW | {"timestamp": value}


def test_the_span_of_a_manifest_is_that_of_its_days(lake: Lake) -> None:
    """The partitions in the manifest list give it."""
    table = lakes.add_trades(lake, [make_trade(1, AT), make_trade(2, AT + 3 * DAY)])
    (manifest,) = snapshot_manifests(table, table.metadata.current_snapshot_id).values()
    midnight = AT - 12 * HOUR
    assert manifest_span(table, manifest) == Interval(midnight, midnight + 4 * DAY)


def test_an_empty_table_has_no_files(lake: Lake) -> None:
    """There is no snapshot."""
    assert data_files_within(lake.trades(), None, [Interval(AT, AT + DAY)]) == []
    assert newest_data_file(lake.trades(), None) is None

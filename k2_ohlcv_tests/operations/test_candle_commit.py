"""The commit of a candle table: its content, and when there is nothing to commit."""

from dataclasses import replace
from datetime import timedelta

import polars as pl
import pyarrow as pa
import pytest
from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.candles import CandleFileChange
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import commit_change
from k2_ohlcv.lake.watermark import HEAD_PROPERTY, Watermark
from k2_ohlcv.operations.candle_commit import build_candle_commit
from k2_ohlcv_tests.support import table_history
from k2_ohlcv_tests.support.trades import AT

MINUTE = find_timeframe("1m")
#: A watermark of a complete table.
MARK = Watermark(
    7,
    AT,
    "fingerprint",
    complete=7,
    complete_latest_trade_at=AT,
    until=AT + DAY,
    frozen_before=AT - DAY,
)


def build_change(*removed: str, rows: int = 0) -> CandleFileChange:
    """A change that removes these files, and adds rows in one file."""
    files = [DataFile.from_args(content=DataFileContent.DATA, file_path=path) for path in removed]
    added = pa.table({"n": range(rows)})
    tasks = tuple(FileScanTask(file) for file in files)
    return CandleFileChange(tasks, added, (rows,) if rows else (), pl.DataFrame(), pl.DataFrame())


def store(lake: Lake, mark: Watermark) -> Table:
    """Commit a watermark. Returns the candle table."""
    table = lake.writable_candles(MINUTE)
    commit = build_candle_commit(table, None, mark, {})
    assert commit is not None
    return commit_change(table, commit)


def test_a_commit_has_the_files_the_rows_and_the_watermark(lake: Lake) -> None:
    """A part that is left out would lose or repeat candles, or lose the watermark."""
    change = build_change("a", "b", rows=3)
    commit = build_candle_commit(lake.writable_candles(MINUTE), change, MARK, {"k2.x": "1"})
    assert commit is not None
    assert [file.file_path for file in commit.removed_files] == ["a", "b"]
    assert (commit.rows, commit.file_rows) == (change.rows, (3,))
    assert commit.properties == {"k2.x": "1", **MARK.properties()}
    assert commit.summary == MARK.summary()


def test_the_first_candles_create_the_table(lake: Lake) -> None:
    """A watermark or a property alone creates no table."""
    table = lake.candles(MINUTE)
    assert build_candle_commit(table, None, MARK, {"k2.x": "1"}) is None
    assert build_candle_commit(table, build_change(), MARK, {"k2.x": "1"}) is None
    assert build_candle_commit(table, build_change(rows=1), MARK, {}) is not None


@pytest.mark.parametrize("change", [None, build_change()])
def test_an_equal_table_needs_no_commit(lake: Lake, change: CandleFileChange | None) -> None:
    """Candles, watermark and properties are stored already."""
    table = store(lake, MARK)
    table_history.set_properties(table, {"k2.x": "1"})
    table = lake.candles(MINUTE)
    assert build_candle_commit(table, change, MARK, {"k2.x": "1"}) is None
    assert build_candle_commit(table, change, None, {"k2.x": "1"}) is None


@pytest.mark.parametrize("change", [build_change("a"), build_change(rows=1)])
def test_changed_candles_are_committed_whatever_is_stored(lake: Lake, change: CandleFileChange) -> None:
    """The watermark may be stored already, as after damage by another writer."""
    assert build_candle_commit(store(lake, MARK), change, MARK, {}) is not None


@pytest.mark.parametrize(
    "mark", [replace(MARK, snapshot_id=8), replace(MARK, open_intervals=(MINUTE.window(AT),))]
)
def test_another_watermark_is_committed(lake: Lake, mark: Watermark) -> None:
    """Its properties are equal to the stored ones, and its summary is not."""
    commit = build_candle_commit(store(lake, MARK), None, mark, {})
    assert commit is not None
    assert commit.summary == mark.summary()


def test_an_edited_property_is_set_back(lake: Lake) -> None:
    """The stored watermark is equal, and its copy in the properties is not."""
    table_history.set_properties(store(lake, MARK), {HEAD_PROPERTY: "edited"})
    commit = build_candle_commit(lake.candles(MINUTE), None, MARK, {})
    assert commit is not None
    assert commit.properties == MARK.properties()


def test_only_missing_properties_are_set(lake: Lake) -> None:
    """A missing property alone is committed, also without a watermark."""
    table_history.set_properties(store(lake, MARK), {"k2.x": "1", "k2.y": "1"})
    commit = build_candle_commit(lake.candles(MINUTE), None, None, {"k2.x": "1", "k2.y": "2"})
    assert commit is not None
    assert (commit.properties, commit.summary) == ({"k2.y": "2"}, {})


@pytest.mark.parametrize(("change", "is_committed"), [(build_change(), True), (None, False)])
def test_a_later_end_of_possible_times_is_stored_after_a_reconciliation(
    lake: Lake, change: CandleFileChange | None, is_committed: bool
) -> None:
    """Trades up to the new end are reconciled, and would stay open under the stored end."""
    mark = replace(MARK, until=AT + 2 * DAY)
    commit = build_candle_commit(store(lake, MARK), change, mark, {})
    assert (commit is not None) is is_committed


@pytest.mark.parametrize(
    ("stored", "days", "is_committed"),
    [(2, None, True), (2, 1, True), (2, 2, False), (2, 3, False), (None, 1, False), (None, None, False)],
)
def test_an_earlier_frozen_before_is_stored(
    lake: Lake, stored: int | None, days: int | None, is_committed: bool
) -> None:
    """Trades that are no longer frozen are reconciled, and would stay open under the stored bound."""
    bounds = [AT + timedelta(days=number) if number is not None else None for number in (stored, days)]
    table = store(lake, replace(MARK, frozen_before=bounds[0]))
    commit = build_candle_commit(table, None, replace(MARK, frozen_before=bounds[1]), {})
    assert (commit is not None) is is_committed

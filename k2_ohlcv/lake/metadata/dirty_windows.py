"""Finds the windows in which trades differ, by reading the files in which two snapshots differ.

Comparing snapshots by metadata is in `snapshot_diff`, choosing the windows of a run in `operations.planning`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.intervals import Interval, is_covered, to_micros
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.frames.selection import MAX_PAIRS, WindowSelection
from k2_ohlcv.lake.external_trades import ExternalTrades, find_time_column
from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN, LiveFile
from k2_ohlcv.lake.metadata.snapshot_diff import SnapshotDiff
from k2_ohlcv.lake.time_column import TimeColumn

#: Maximum rows and files that are read to find the dirty windows exactly. Beyond that, all windows within
#: the files' bounds are dirty, because reading would cost as much as recomputing them.
MAX_ROWS, MAX_FILES = 5_000_000, 500

#: The columns that name the market of a trade.
MARKET_COLUMNS = ("exchange", "symbol")


@dataclass(frozen=True)
class DirtyWindows:
    """The dirty windows of a timeframe.

    Attributes:
        selection: the windows; of single markets, where the changed rows were read.
        files_read: the number of trades files that were read to find the windows.
    """

    selection: WindowSelection
    files_read: int


def find_dirty_windows(
    trades: Table, diff: SnapshotDiff, timeframe: Timeframe, open_intervals: Sequence[Interval] = ()
) -> DirtyWindows:
    """Find the windows in which trades differ, by reading the removed and added files.

    A copy-on-write change rewrites whole files. Rows that a removed and an added file share are therefore not
    dirty. For files that are too large or missing, the bounds decide, for all markets.

    Args:
        trades: the trades table.
        diff: the files in which two snapshots differ.
        timeframe: the timeframe of the windows.
        open_intervals: further intervals that are dirty for all markets.
    """
    spans, rows, files_read = [*diff.deleted_spans, *open_intervals], 0, 0
    changed: list[pl.DataFrame] = []
    for removed, added in _group_overlapping(diff):
        files = [*removed, *added]
        size = sum(f.file.record_count for f in files)
        bounds = [f.span for f in files]
        is_small = rows + size <= MAX_ROWS and files_read + len(files) <= MAX_FILES
        is_one_window = timeframe.align(bounds) == [timeframe.window(files[0].span.start)]
        is_known_dirty = is_covered(diff.deleted_spans, bounds)
        frames = (
            _read_files(trades, files, with_values=bool(removed and added))
            if is_small and not is_known_dirty and not (is_one_window and size > MAX_PAIRS)
            else None
        )
        if frames is None:
            spans += bounds
        else:
            rows, files_read = rows + size, files_read + len(files)
            changed.append(_changed_rows(frames[: len(removed)], frames[len(removed) :]))
    moments = pl.concat(changed) if changed else None
    return DirtyWindows(WindowSelection.of(timeframe, spans, moments), files_read)


def _group_overlapping(diff: SnapshotDiff) -> list[tuple[list[LiveFile], list[LiveFile]]]:
    """Group removed and added files by connected time spans. Only overlapping files can share rows."""
    groups: list[tuple[list[LiveFile], list[LiveFile]]] = []
    for span in diff.bounds:
        removed = [f for f in diff.removed_files if f.span.intersect(span)]
        added = [f for f in diff.added_files if f.span.intersect(span)]
        if removed:
            groups.append((removed, added))
        else:
            groups.extend(([], [f]) for f in added)
    return groups


def _read_files(trades: Table, files: Sequence[LiveFile], *, with_values: bool) -> list[pl.DataFrame] | None:
    """Read the rows of files, with `micros`, `exchange`, `symbol` and, if asked, all values.

    Rows of impossible times belong to no window and are left out. The result is None where a file is missing
    or its columns cannot be identified.
    """
    time = find_time_column(trades, TRADE_TIME_COLUMN)
    markets = [_column_name(trades, column) for column in MARKET_COLUMNS]
    names = _value_columns(trades) if with_values else [time.field.name, *markets]
    scan = ArrowScan(trades.metadata, trades.io, trades.schema().select(*names), AlwaysTrue())
    try:
        frames = [pl.DataFrame(scan.to_table([FileScanTask(f.file)])) for f in files]
    except (FileNotFoundError, ValueError):
        return None
    times = possible_trade_times()
    is_possible = pl.col("micros").is_between(to_micros(times.start), to_micros(times.last))
    return [_with_micros(time, markets, frame).filter(is_possible) for frame in frames]


def _column_name(trades: Table, column: str) -> str:
    """The name of a column in the table, by the project's name."""
    field = trades.field(column) if isinstance(trades, ExternalTrades) else None
    return field.name if field else column


def _with_micros(time: TimeColumn, markets: Sequence[str], frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its times as microseconds, its market, and its other columns named by number.

    The columns of an external table may have any name. A market that is no text is null, and stands for all.
    """
    name = time.field.name
    values = {f"{i}": frame[column] for i, column in enumerate(frame.columns) if column != name}
    market = {
        column: frame[source] if frame.schema[source] == pl.String else pl.Series([None], dtype=pl.String)
        for column, source in zip(MARKET_COLUMNS, markets, strict=True)
    }
    market = {
        column: series if len(series) == frame.height else series.new_from_index(0, frame.height)
        for column, series in market.items()
    }
    return pl.DataFrame({"micros": time.micros(frame[name]), **market, **values})


def _value_columns(trades: Table) -> list[str]:
    """The columns whose values make two trades different."""
    if isinstance(trades, ExternalTrades):
        return [field.name for column in trades.columns if (field := trades.field(column))]
    return [field.name for field in trades.schema().fields if field.name != "ingested_at"]


def _changed_rows(removed: Sequence[pl.DataFrame], added: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The time and market of rows that occur in removed and added files a different number of times."""
    rows = pl.concat([*removed, *added])
    if removed and added:
        removed_sign = pl.repeat(-1, sum(map(len, removed)), eager=True)
        added_sign = pl.repeat(1, sum(map(len, added)), eager=True)
        signed = rows.with_columns(pl.concat([removed_sign, added_sign]).alias("sign"))
        counted = signed.group_by(rows.columns).agg(pl.col("sign").sum())
        rows = counted.filter(pl.col("sign") != 0)
    return rows.select(*MARKET_COLUMNS, "micros")

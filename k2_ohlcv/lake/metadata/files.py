"""The live files of a snapshot with their time spans, and the file difference of two snapshots.

Reads metadata only, never a data file. Reading manifests is in `manifests`, the files of some intervals in
`file_search`, the changed windows of two snapshots in `snapshot_diff`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from cachetools import cached
from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, LessThan, Or, Reference
from pyiceberg.expressions.literals import literal
from pyiceberg.manifest import DataFile, DataFileContent, ManifestContent, ManifestFile
from pyiceberg.table import Table

from k2_ohlcv.domain.intervals import MICROSECOND, Interval
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.lake.external_trades import ExternalTrades, find_time_column
from k2_ohlcv.lake.metadata.manifests import (
    MAX_ENTRIES,
    deleted_file,
    manifest_files_with_sequence,
    new_cache,
    snapshot_manifests,
)
from k2_ohlcv.lake.schemas import TABLE_SPECS, TRADES_SPEC, TableSpec
from k2_ohlcv.lake.time_column import TimeColumn

#: The time column of trades, by the project's name.
TRADE_TIME_COLUMN = "timestamp"


def time_column_name(table: Table) -> str:
    """The time column of a table, which partitions the table, by the project's name."""
    return _table_spec(table).time_column


def table_grain(table: Table) -> Grain:
    """The grain of a table's partitions. External trades are always grouped by days."""
    return _table_spec(table).grain


def _table_spec(table: Table) -> TableSpec:
    """The spec of a table. A table of an unknown name is taken as a trades table."""
    return (
        TRADES_SPEC if isinstance(table, ExternalTrades) else TABLE_SPECS.get(table.name()[-1], TRADES_SPEC)
    )


def _find_time_column(table: Table) -> TimeColumn:
    return find_time_column(table, time_column_name(table))


@dataclass(frozen=True)
class LiveFile:
    """A live data or delete file with the time span of its rows.

    Attributes:
        file: the file's entry in its manifest.
        span: the time span of the rows; for trades, of the rows with a possible time.
        sequence: the data sequence number. Delete files apply to data files of lower or equal numbers.
        latest: the newest possible time by the file's bounds; None without such a bound.
        has_impossible_times: whether rows of trades may have an impossible time, or no time.
        has_only_impossible_times: whether all rows of trades have an impossible time. The span is then the
            nearest end of the possible times.
    """

    file: DataFile
    span: Interval
    sequence: int = 0
    latest: datetime | None = None
    has_impossible_times: bool = False
    has_only_impossible_times: bool = False

    @property
    def path(self) -> str:
        """The path of the file, which identifies it."""
        return self.file.file_path

    @property
    def is_delete(self) -> bool:
        """Whether the file is a delete file."""
        return self.file.content != DataFileContent.DATA


def live_files(table: Table, snapshot_id: int | None) -> list[LiveFile]:
    """The live files of a snapshot with their time spans; empty for None, the table without a snapshot."""
    return files_of_manifests(table, snapshot_manifests(table, snapshot_id).values())


def diff_files(table: Table, before: int | None, after: int | None) -> tuple[list[LiveFile], list[LiveFile]]:
    """Find the files that are live at only one of two snapshots.

    Manifests that both snapshots share have the same live files, and are not read. In a table with delete
    files, a new sequence number makes a file another file, because other deletes apply.

    Returns:
        The files removed since `before`, and the files added at `after`.
    """
    old, new = snapshot_manifests(table, before), snapshot_manifests(table, after)
    old_files = files_of_manifests(table, (m for path, m in old.items() if path not in new))
    new_files = files_of_manifests(table, (m for path, m in new.items() if path not in old))
    has_deletes = any(m.content == ManifestContent.DELETES for m in (*old.values(), *new.values()))

    def identity(file: LiveFile) -> object:
        return (file.path, deleted_file(file.file), file.sequence) if has_deletes else file.path

    old_ids, new_ids = {identity(f) for f in old_files}, {identity(f) for f in new_files}
    removed = [f for f in old_files if identity(f) not in new_ids]
    return removed, [f for f in new_files if identity(f) not in old_ids]


def files_of_manifests(table: Table, manifests: Iterable[ManifestFile]) -> list[LiveFile]:
    """The live files of manifests with their time spans."""
    return [file for manifest in manifests for file in _manifest_spans(table, manifest)]


def _spans_key(table: Table, manifest: ManifestFile) -> tuple[object, ...]:
    """The cache key of a manifest's spans. Spans depend on the time column, grain and possible times."""
    time = _find_time_column(table)
    grain = table_grain(table)
    return manifest.manifest_path, time.field.field_id, time.time_unit, grain, possible_trade_times().end


@cached(new_cache(MAX_ENTRIES), key=_spans_key, lock=Lock())
def _manifest_spans(table: Table, manifest: ManifestFile) -> tuple[LiveFile, ...]:
    numbered = manifest_files_with_sequence(table, manifest)
    return tuple(build_live_file(table, file, sequence) for file, sequence in numbered)


def build_live_file(table: Table, file: DataFile, sequence: int) -> LiveFile:
    """Build a live file with its time span. The span of trades is clipped to the possible trade times."""
    span = file_bounds_span(table, file)
    if time_column_name(table) != TRADE_TIME_COLUMN:
        return LiveFile(file, span, sequence, span.last)
    times = possible_trade_times()
    latest = span.last if span.end <= times.end else span.start
    clipped, field = _clip_span(span, times), _find_time_column(table).field
    has_nulls = not field.required and (file.null_value_counts or {}).get(field.field_id) != 0
    return LiveFile(
        file,
        clipped,
        sequence,
        latest=latest if latest in times else None,
        has_impossible_times=file.content == DataFileContent.DATA and (clipped != span or has_nulls),
        has_only_impossible_times=span.intersect(times) is None,
    )


def _clip_span(span: Interval, times: Interval) -> Interval:
    """The part of a span within some times; for a span outside, the nearest end of the times."""
    if clipped := span.intersect(times):
        return clipped
    nearest = times.start if span.end <= times.start else times.last
    return Interval(nearest, nearest + MICROSECOND)


def file_time_span(table: Table, file: DataFile) -> Interval:
    """The time span of a file's rows; for trades, of the rows with a possible time."""
    return clip_to_possible_times(table, file_bounds_span(table, file))


def clip_to_possible_times(table: Table, span: Interval) -> Interval:
    """The span itself; for trades, its part of the possible times, or the nearest end of those."""
    return _clip_span(span, possible_trade_times()) if time_column_name(table) == TRADE_TIME_COLUMN else span


def file_bounds_span(table: Table, file: DataFile) -> Interval:
    """The time span of a file: from the bounds of its time column, else from its partition."""
    if isinstance(table, ExternalTrades):
        return table.span(file)
    time = _find_time_column(table)
    if bounds := time.file_bounds(file):
        return time.span(*bounds)
    return table_grain(table).interval_of(_partition_ordinal(file))


def _partition_ordinal(file: DataFile) -> int:
    return int(file.partition[0])


def file_partition(file: DataFile, grain: Grain) -> Interval:
    """The partition in a file's metadata."""
    return grain.interval_of(_partition_ordinal(file))


def file_sizes(table: Table) -> dict[Interval, list[int]]:
    """The bytes of each live data file of a table, by partition."""
    sizes: dict[Interval, list[int]] = {}
    grain = table_grain(table)
    for live in live_files(table, table.metadata.current_snapshot_id):
        if not live.is_delete:
            sizes.setdefault(file_partition(live.file, grain), []).append(live.file.file_size_in_bytes)
    return sizes


def is_within(column: str, intervals: Sequence[Interval]) -> BooleanExpression:
    """A row filter for moments in the intervals.

    The filter is a balanced tree, because PyIceberg exceeds Python's recursion limit at a depth of 500.
    """
    if len(intervals) > 1:
        half = len(intervals) // 2
        return Or(is_within(column, intervals[:half]), is_within(column, intervals[half:]))
    (interval,) = intervals
    moment = Reference(column)
    return And(
        GreaterThanOrEqual(term=moment, value=literal(interval.start.isoformat())),
        LessThan(term=moment, value=literal(interval.end.isoformat())),
    )

"""What Iceberg's metadata says of files: which are live, what they hold, what two snapshots differ in.

Reads manifests only, never a data file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import Any

from cachetools import LRUCache, cached
from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, LessThan, Or, Reference
from pyiceberg.expressions.literals import literal
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent, ManifestContent, ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from k2_ohlcv.domain.intervals import MICROSECOND, Interval
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.domain.trading_times import possible_trade_times
from k2_ohlcv.lake.external_trades import ExternalTrades, find_time_column
from k2_ohlcv.lake.schemas import TABLE_SPECS, TRADES_SPEC, TableSpec
from k2_ohlcv.lake.time_column import TimeColumn

#: The column of trades that windows are made of.
TRADE_TIME_COLUMN = "timestamp"

#: Iceberg's field id of the path column in position delete files; its bounds say which data files they touch.
_PATH_FIELD = 2147483546

#: Entries of manifests that are kept: some 2 kB each. One plan asks for the same ones several times.
_MAX_ENTRIES = 20_000
_MAX_MANIFESTS = 5_000


def _new_cache(most: int) -> LRUCache[object, Any]:
    """What was read last from files that never change, up to so many entries in all, or one large file."""
    return LRUCache(most, getsizeof=lambda entries: min(len(entries) + 1, most))


def time_column_name(table: Table) -> str:
    """The column by which a table is partitioned and read, under our name."""
    return _table_spec(table).time_column


def table_grain(table: Table) -> Grain:
    """The grain of a table's partitions. Another writer's trades are looked at by days, as ours are."""
    return _table_spec(table).grain


def _table_spec(table: Table) -> TableSpec:
    """What a table has to be; whatever is not one of ours is somebody's trades."""
    return (
        TRADES_SPEC if isinstance(table, ExternalTrades) else TABLE_SPECS.get(table.name()[-1], TRADES_SPEC)
    )


def _find_time_column(table: Table) -> TimeColumn:
    return find_time_column(table, time_column_name(table))


@dataclass(frozen=True)
class LiveFile:
    """A live data or delete file, with the span of moments that its rows may lie in.

    Attributes:
        file: what its manifest says of it.
        span: where its rows may lie. Of trades, where those lie that have a possible time.
        sequence: its data sequence number. Delete files bear on files of lower numbers, or equal ones.
        latest: the newest moment of which its metadata says that a row may have it; None where it says none.
        has_impossible_times: of trades, whether rows may have an impossible time, or none.
        has_only_impossible_times: of trades, whether all rows have an impossible time; the span is then the
            end nearest to it.
    """

    file: DataFile
    span: Interval
    sequence: int = 0
    latest: datetime | None = None
    has_impossible_times: bool = False
    has_only_impossible_times: bool = False

    @property
    def path(self) -> str:
        """Where the file is: what makes it the same file."""
        return self.file.file_path

    @property
    def is_delete(self) -> bool:
        """Whether the file says which rows of others are gone."""
        return self.file.content != DataFileContent.DATA


def live_files(table: Table, snapshot_id: int | None) -> list[LiveFile]:
    """The files of a snapshot, with the spans of their rows. None is the table without any snapshot."""
    return _live_entries(table, _manifests(table, snapshot_id).values())


def delete_files(table: Table, snapshot_id: int) -> list[DataFile]:
    """The live delete files of a snapshot. Manifests of data files are not opened."""
    return [file for file, _ in deletes_with_sequence(table, snapshot_id)]


def files_with_sequence(table: Table, snapshot_id: int) -> list[tuple[DataFile, int]]:
    """The live data files of a snapshot with their sequence numbers."""
    return [
        numbered
        for manifest in _manifests(table, snapshot_id).values()
        if manifest.content == ManifestContent.DATA
        for numbered in _files_with_sequence(table.io, manifest)
    ]


def manifest_files_with_sequence(table: Table, manifest: ManifestFile) -> Sequence[tuple[DataFile, int]]:
    """The live files of a manifest with their sequence numbers."""
    return _files_with_sequence(table.io, manifest)


def deletes_with_sequence(table: Table, snapshot_id: int) -> list[tuple[DataFile, int]]:
    """The live delete files of a snapshot with their sequence numbers."""
    return [
        numbered
        for manifest in _manifests(table, snapshot_id).values()
        if manifest.content == ManifestContent.DELETES
        for numbered in _files_with_sequence(table.io, manifest)
    ]


def data_files(table: Table, snapshot_id: int) -> list[DataFile]:
    """The live data files of a snapshot, without looking at their spans."""
    return [
        file
        for manifest in _manifests(table, snapshot_id).values()
        if manifest.content == ManifestContent.DATA
        for file in read_live_files(table.io, manifest)
    ]


def diff_files(table: Table, before: int | None, after: int | None) -> tuple[list[LiveFile], list[LiveFile]]:
    """The files that are live at one snapshot only: those gone since `before`, those new at `after`.

    Manifests that both share hold the same live files, and are not opened. Where there are delete files, a
    file that came back with another sequence number is another file: other deletes bear on it.
    """
    old, new = _manifests(table, before), _manifests(table, after)
    gone = _live_entries(table, (m for path, m in old.items() if path not in new))
    come = _live_entries(table, (m for path, m in new.items() if path not in old))
    exact = any(m.content == ManifestContent.DELETES for m in (*old.values(), *new.values()))

    def identity(file: LiveFile) -> object:
        return (file.path, deleted_file(file.file), file.sequence) if exact else file.path

    went, came = {identity(f) for f in gone}, {identity(f) for f in come}
    return [f for f in gone if identity(f) not in came], [f for f in come if identity(f) not in went]


def deleted_file(delete: DataFile) -> str | None:
    """The one data file whose rows a position delete file or deletion vector names, where it says so."""
    referenced = getattr(delete, "referenced_data_file", None)
    if referenced is not None:
        return str(referenced)
    lower = (delete.lower_bounds or {}).get(_PATH_FIELD)
    upper = (delete.upper_bounds or {}).get(_PATH_FIELD)
    is_position = delete.content == DataFileContent.POSITION_DELETES
    return lower.decode() if is_position and lower is not None and lower == upper else None


def _manifests(table: Table, snapshot_id: int | None) -> dict[str, ManifestFile]:
    if snapshot_id is None:
        return {}
    snapshot = table.metadata.snapshot_by_id(snapshot_id)
    if snapshot is None:
        raise LookupError(f"snapshot {snapshot_id} of {'.'.join(table.name())} has expired")
    return {manifest.manifest_path: manifest for manifest in _list_manifests(table.io, snapshot)}


@cached(_new_cache(_MAX_MANIFESTS), key=lambda _, snapshot: snapshot.manifest_list, lock=Lock())
def _list_manifests(io: FileIO, snapshot: Snapshot) -> tuple[ManifestFile, ...]:
    return tuple(snapshot.manifests(io))


def _live_entries(table: Table, manifests: Iterable[ManifestFile]) -> list[LiveFile]:
    """The live files of manifests with their spans, which are worked out once: neither ever changes."""
    return [file for manifest in manifests for file in _manifest_spans(table, manifest)]


def _spans_key(table: Table, manifest: ManifestFile) -> tuple[object, ...]:
    """A manifest, and what decides the spans of its files."""
    time = _find_time_column(table)
    grain = table_grain(table)
    return manifest.manifest_path, time.field.field_id, time.time_unit, grain, possible_trade_times().end


@cached(_new_cache(_MAX_ENTRIES), key=_spans_key, lock=Lock())
def _manifest_spans(table: Table, manifest: ManifestFile) -> tuple[LiveFile, ...]:
    numbered = _files_with_sequence(table.io, manifest)
    return tuple(build_live_file(table, file, sequence) for file, sequence in numbered)


def build_live_file(table: Table, file: DataFile, sequence: int) -> LiveFile:
    """A file with its span, which of trades is cut to the times that a trade can have."""
    span = file_bounds_span(table, file)
    if time_column_name(table) != TRADE_TIME_COLUMN:
        return LiveFile(file, span, sequence, span.last)
    times = possible_trade_times()
    latest = span.last if span.end <= times.end else span.start
    cut, field = _clip_span(span, times), _find_time_column(table).field
    empty = not field.required and (file.null_value_counts or {}).get(field.field_id) != 0
    return LiveFile(
        file,
        cut,
        sequence,
        latest=latest if latest in times else None,
        has_impossible_times=file.content == DataFileContent.DATA and (cut != span or empty),
        has_only_impossible_times=span.intersect(times) is None,
    )


def _clip_span(span: Interval, times: Interval) -> Interval:
    """What of a span lies in some times, or else the end that is nearest to it."""
    if both := span.intersect(times):
        return both
    edge = times.start if span.end <= times.start else times.last
    return Interval(edge, edge + MICROSECOND)


def read_live_files(io: FileIO, manifest: ManifestFile) -> list[DataFile]:
    """The live files of a manifest."""
    return [file for file, _ in _files_with_sequence(io, manifest)]


@cached(_new_cache(_MAX_ENTRIES), key=lambda _, manifest: manifest.manifest_path, lock=Lock())
def _files_with_sequence(io: FileIO, manifest: ManifestFile) -> tuple[tuple[DataFile, int], ...]:
    """The live files of a manifest with their data sequence numbers.

    What was read last is kept, as a manifest never changes.
    """
    entries = manifest.fetch_manifest_entry(io, discard_deleted=True)
    return tuple((e.data_file, e.sequence_number or 0) for e in entries)


def file_time_span(table: Table, file: DataFile) -> Interval:
    """Where the rows of a file may lie; of trades, where those lie that have a possible time."""
    span = file_bounds_span(table, file)
    return _clip_span(span, possible_trade_times()) if time_column_name(table) == TRADE_TIME_COLUMN else span


def file_bounds_span(table: Table, file: DataFile) -> Interval:
    """The file's own bounds of the column where it has them, else its partition.

    A foreign trades table has one time column, whatever it is called there.
    """
    if isinstance(table, ExternalTrades):
        return table.span(file)
    time = _find_time_column(table)
    if bounds := time.file_bounds(file):
        return time.span(*bounds)
    return table_grain(table).interval_of(_partition_ordinal(file))


def _partition_ordinal(file: DataFile) -> int:
    return int(file.partition[0])


def file_partition(file: DataFile, grain: Grain) -> Interval:
    """The partition that a file says it belongs to."""
    return grain.interval_of(_partition_ordinal(file))


def file_sizes(table: Table) -> dict[Interval, list[int]]:
    """The bytes of each data file that a table has now, by the partition that it says it belongs to."""
    sizes: dict[Interval, list[int]] = {}
    grain = table_grain(table)
    for live in live_files(table, table.metadata.current_snapshot_id):
        if not live.is_delete:
            sizes.setdefault(file_partition(live.file, grain), []).append(live.file.file_size_in_bytes)
    return sizes


def is_within(column: str, intervals: Sequence[Interval]) -> BooleanExpression:
    """A row filter for moments in the intervals: a balanced tree, as PyIceberg recurses out at 500 deep."""
    if len(intervals) > 1:
        half = len(intervals) // 2
        return Or(is_within(column, intervals[:half]), is_within(column, intervals[half:]))
    (interval,) = intervals
    moment = Reference(column)
    return And(
        GreaterThanOrEqual(term=moment, value=literal(interval.start.isoformat())),
        LessThan(term=moment, value=literal(interval.end.isoformat())),
    )

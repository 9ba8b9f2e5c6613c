"""Finds the data files of some intervals, and the newest data file. Reads no manifest that cannot have them.

A manifest list has the least and greatest partition of each manifest. The number of manifests that are read
therefore does not grow with the files of other partitions. All files of a snapshot are in `files`.
"""

from collections.abc import Sequence

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.partitioning import PartitionField
from pyiceberg.table import Table
from pyiceberg.types import PrimitiveType

from k2_ohlcv.domain.intervals import Interval, IntervalSet
from k2_ohlcv.lake.external_trades import find_time_column, transformed_span
from k2_ohlcv.lake.metadata.files import (
    LiveFile,
    clip_to_possible_times,
    files_of_manifests,
    time_column_name,
)
from k2_ohlcv.lake.metadata.manifests import snapshot_manifests
from k2_ohlcv.lake.time_column import TimeColumn


def data_files_within(table: Table, snapshot_id: int | None, intervals: Sequence[Interval]) -> list[LiveFile]:
    """The live data files of a snapshot whose spans overlap some intervals."""
    chosen = IntervalSet(intervals)
    manifests = [
        manifest
        for manifest in _data_manifests(table, snapshot_id)
        if (span := manifest_span(table, manifest)) is None or chosen.has_overlap(span)
    ]
    return [f for f in files_of_manifests(table, manifests) if chosen.has_overlap(f.span)]


def newest_data_file(table: Table, snapshot_id: int | None) -> LiveFile | None:
    """The live data file with the newest possible time, by its bounds; None where no file has bounds."""
    newest: LiveFile | None = None
    unknown, known = [], []
    for manifest in _data_manifests(table, snapshot_id):
        span = manifest_span(table, manifest)
        unknown.append(manifest) if span is None else known.append((span.end, manifest))
    for end, manifest in [(None, m) for m in unknown] + sorted(known, key=lambda pair: pair[0], reverse=True):
        if newest and newest.latest and end and newest.latest >= end:
            break
        for file in files_of_manifests(table, [manifest]):
            if file.latest and not (newest and newest.latest and newest.latest >= file.latest):
                newest = file
    return newest


def manifest_span(table: Table, manifest: ManifestFile) -> Interval | None:
    """A span that includes the spans of all files of a manifest, by their partitions; None if unknown."""
    time = find_time_column(table, time_column_name(table))
    fields = table.specs()[manifest.partition_spec_id].fields
    spans = [
        span
        for field, summary in zip(fields, manifest.partitions or (), strict=False)
        if field.source_id == time.field.field_id
        and not summary.contains_null
        and (span := _partitions_span(time, field, summary.lower_bound, summary.upper_bound))
    ]
    narrowest = min(spans, key=lambda span: span.end - span.start, default=None)
    return clip_to_possible_times(table, narrowest) if narrowest else None


def _partitions_span(
    time: TimeColumn, field: PartitionField, lower: bytes | None, upper: bytes | None
) -> Interval | None:
    """The span from the least to the greatest partition of a time transform."""
    if lower is None or upper is None:
        return None
    kind = field.transform.result_type(time.field.field_type)
    assert isinstance(kind, PrimitiveType)
    first, last = (
        transformed_span(time, field.transform, int(from_bytes(kind, bound))) for bound in (lower, upper)
    )
    return Interval(first.start, last.end) if first and last else None


def _data_manifests(table: Table, snapshot_id: int | None) -> list[ManifestFile]:
    manifests = snapshot_manifests(table, snapshot_id).values()
    return [m for m in manifests if m.content == ManifestContent.DATA]

"""Finds files that compaction rewrote or retention dropped. Their windows are not dirty.

A `replace` snapshot writes the rows of some files into others. Retention drops whole files and marks its
snapshots; the candles of the dropped trades are frozen. Comparing two snapshots is in `snapshot_diff`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pyiceberg.manifest import ManifestContent, ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot, ancestors_of

from k2_ohlcv.domain.intervals import coalesce
from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY
from k2_ohlcv.lake.metadata.file_search import data_files_within
from k2_ohlcv.lake.metadata.files import LiveFile, build_live_file
from k2_ohlcv.lake.metadata.manifests import snapshot_manifests


@dataclass
class RewrittenFiles:
    """The files that compaction and retention snapshots removed and wrote between two snapshots.

    Attributes:
        sources: for each file that a compaction wrote, all files that the compaction removed.
        results: for each removed file, all files that its compaction wrote; none for retention.
        before: the paths of the live files at the earlier snapshot, in the spans of the rewritten files.
        after: the same at the later snapshot.
    """

    sources: dict[str, list[LiveFile]] = field(default_factory=dict)
    results: dict[str, list[LiveFile]] = field(default_factory=dict)
    before: set[str] = field(default_factory=set)
    after: set[str] = field(default_factory=set)

    @classmethod
    def find(cls, trades: Table, before: int, after: int) -> "RewrittenFiles":
        """Find the rewritten files in the history of `after` that is not the history of `before`."""
        snapshot = trades.metadata.snapshot_by_id(after)
        shared = {
            s.snapshot_id for s in ancestors_of(trades.metadata.snapshot_by_id(before), trades.metadata)
        }
        rewritten = cls()
        for ancestor in ancestors_of(snapshot, trades.metadata):
            if ancestor.snapshot_id in shared:
                break
            if _is_compaction(trades, ancestor):
                removed, written = _changed_files(trades, ancestor)
                rewritten.sources |= {f.path: removed for f in written}
                rewritten.results |= {f.path: written for f in removed}
            elif _is_retention_drop(ancestor):
                rewritten.results |= {f.path: [] for f in _changed_files(trades, ancestor)[0]}
        groups = [*rewritten.sources.values(), *rewritten.results.values()]
        spans = coalesce({f.span for group in groups for f in group})
        if spans:
            rewritten.before = {f.path for f in data_files_within(trades, before, spans)}
            rewritten.after = {f.path for f in data_files_within(trades, after, spans)}
        return rewritten

    def exclude_rewrites(
        self, removed: Sequence[LiveFile], added: Sequence[LiveFile]
    ) -> tuple[list[LiveFile], list[LiveFile]]:
        """The removed and added files without rewrites: rows that only changed their file are left out."""
        sources = {f.path: f for file in added for f in self._source_files(file)}
        new_files = [f for f in sources.values() if f.path not in self.before]
        return [f for f in removed if not self._is_preserved(f)], new_files

    def _source_files(self, file: LiveFile) -> list[LiveFile]:
        """The original files of a file's rows, before compaction.

        The file itself is its source if a result of the same compaction was deleted later. The original files
        then have rows that are no longer live.
        """
        sources = self.sources.get(file.path, [])
        if not sources or not all(map(self._is_preserved, sources)):
            return [file]
        return [original for source in sources for original in self._source_files(source)]

    def _is_preserved(self, file: LiveFile) -> bool:
        """Whether all rows of a removed file are in live files, or were dropped by retention."""
        return file.path in self.results and all(
            f.path in self.after or self._is_preserved(f) for f in self.results[file.path]
        )


def _is_compaction(trades: Table, snapshot: Snapshot) -> bool:
    """Whether a snapshot is a compaction in a table without delete files.

    A compaction that applies row-level deletes changes the rows.
    """
    if snapshot.summary is None or snapshot.summary.operation != Operation.REPLACE:
        return False
    parent = trades.metadata.snapshot_by_id(snapshot.parent_snapshot_id or 0)
    manifests = snapshot_manifests(trades, parent.snapshot_id).values() if parent else ()
    return parent is not None and all(m.content == ManifestContent.DATA for m in manifests)


def _is_retention_drop(snapshot: Snapshot) -> bool:
    """Whether retention dropped partitions in a snapshot."""
    return snapshot.summary is not None and RETENTION_SUMMARY_KEY in snapshot.summary.additional_properties


def _changed_files(trades: Table, snapshot: Snapshot) -> tuple[list[LiveFile], list[LiveFile]]:
    """The files that one snapshot removed, and the files that the snapshot wrote."""
    removed: list[LiveFile] = []
    written: list[LiveFile] = []
    for manifest in snapshot_manifests(trades, snapshot.snapshot_id).values():
        if manifest.added_snapshot_id != snapshot.snapshot_id:
            continue
        for entry in manifest.fetch_manifest_entry(trades.io, discard_deleted=False):
            if entry.snapshot_id != snapshot.snapshot_id or entry.status == ManifestEntryStatus.EXISTING:
                continue
            number = entry.sequence_number or 0
            file = build_live_file(trades, entry.data_file, number)
            (removed if entry.status == ManifestEntryStatus.DELETED else written).append(file)
    return removed, written

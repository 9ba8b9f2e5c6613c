"""What compactions moved and retention dropped: files that differ, and no window that does.

A `replace` snapshot writes the rows of some files into others. Retention drops whole files, in commits that
it marks; the candles of their windows are frozen then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pyiceberg.manifest import ManifestContent, ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot, ancestors_of

from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY
from k2_ohlcv.lake.metadata.files import LiveFile, build_live_file, live_files


@dataclass
class RewrittenFiles:
    """What such snapshots did: rows moved into other files or were dropped, and no window changed by it."""

    #: For each file that such a snapshot wrote or removed: all that it removed, and all that it wrote.
    sources: dict[str, list[LiveFile]] = field(default_factory=dict)
    results: dict[str, list[LiveFile]] = field(default_factory=dict)
    before: set[str] = field(default_factory=set)
    after: set[str] = field(default_factory=set)

    @classmethod
    def find(cls, trades: Table, before: int, after: int) -> "RewrittenFiles":
        """The moves in the history of `after` that `before` does not have, as far as it is there."""
        snapshot = trades.metadata.snapshot_by_id(after)
        known = {s.snapshot_id for s in ancestors_of(trades.metadata.snapshot_by_id(before), trades.metadata)}
        moves = cls()
        for ancestor in ancestors_of(snapshot, trades.metadata):
            if ancestor.snapshot_id in known:
                break
            if _is_compaction(trades, ancestor):
                removed, written = _changed_files(trades, ancestor)
                moves.sources |= {f.path: removed for f in written}
                moves.results |= {f.path: written for f in removed}
            elif _is_retention_drop(ancestor):
                moves.results |= {f.path: [] for f in _changed_files(trades, ancestor)[0]}
        if moves.results:
            moves.before = {f.path for f in live_files(trades, before)}
            moves.after = {f.path for f in live_files(trades, after)}
        return moves

    def exclude_rewrites(
        self, gone: Sequence[LiveFile], come: Sequence[LiveFile]
    ) -> tuple[list[LiveFile], list[LiveFile]]:
        """The files that really went and came: not those that only moved."""
        came = {f.path: f for file in come for f in self._source_files(file)}
        went = [f for f in gone if not self._is_kept(f)]
        return went, [f for f in came.values() if f.path not in self.before]

    def _source_files(self, file: LiveFile) -> list[LiveFile]:
        """The files that a file's rows came in, before they were moved into it.

        Only where all that was moved beside it is still there. Else its sources hold rows that are gone.
        """
        sources = self.sources.get(file.path, [])
        if not sources or not all(map(self._is_kept, sources)):
            return [file]
        return [origin for source in sources for origin in self._source_files(source)]

    def _is_kept(self, file: LiveFile) -> bool:
        """Whether all rows of a file that went are in files that are there, or dropped by retention."""
        return file.path in self.results and all(
            f.path in self.after or self._is_kept(f) for f in self.results[file.path]
        )


def _is_compaction(trades: Table, snapshot: Snapshot) -> bool:
    """Whether a snapshot only moved rows: a compaction of files that no delete file bore on.

    One that applies row-level deletes on the way writes other rows than its sources have.
    """
    if snapshot.summary is None or snapshot.summary.operation != Operation.REPLACE:
        return False
    parent = trades.metadata.snapshot_by_id(snapshot.parent_snapshot_id or 0)
    return parent is not None and all(m.content == ManifestContent.DATA for m in parent.manifests(trades.io))


def _is_retention_drop(snapshot: Snapshot) -> bool:
    """Whether a snapshot is one of those in which retention dropped partitions."""
    return snapshot.summary is not None and RETENTION_SUMMARY_KEY in snapshot.summary.additional_properties


def _changed_files(trades: Table, snapshot: Snapshot) -> tuple[list[LiveFile], list[LiveFile]]:
    """The data files that one snapshot removed, and those that it wrote."""
    removed: list[LiveFile] = []
    written: list[LiveFile] = []
    for manifest in snapshot.manifests(trades.io):
        if manifest.added_snapshot_id != snapshot.snapshot_id:
            continue
        for entry in manifest.fetch_manifest_entry(trades.io, discard_deleted=False):
            if entry.snapshot_id != snapshot.snapshot_id or entry.status == ManifestEntryStatus.EXISTING:
                continue
            number = entry.sequence_number or 0
            file = build_live_file(trades, entry.data_file, number)
            (removed if entry.status == ManifestEntryStatus.DELETED else written).append(file)
    return removed, written

"""The sensor of external commits: reports what other writers committed to trades, so that the graph shows it.

Runs of the graph list the snapshots that they committed. All other snapshots are another program's, or the
command line's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from k2_ohlcv.defs import backfill
from k2_ohlcv.defs.assets.trades import SNAPSHOTS_METADATA_KEY, partition_numbers
from k2_ohlcv.defs.dead_runs import IN_FLIGHT_STATUSES
from k2_ohlcv.defs.run_tags import TABLE_TAG
from k2_ohlcv.defs.sensors.refresh import is_run_of_table
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY
from k2_ohlcv.lake.metadata.table_stats import RowsChanged, count_rows_per_partition, rows_changed_per_day
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.operations.backfill_size import update_backfill_size
from k2_ohlcv.settings import Settings

#: Dagster records an event in some 27 ms, and an evaluation of a sensor may take a minute.
_MAX_EVENTS = 500


@dataclass(frozen=True)
class CommitCursor:
    """The sensor's state between two evaluations.

    Attributes:
        snapshot: the id of the last snapshot that was reported in full; 0 before the first.
        at: when that snapshot was committed, in milliseconds since the epoch.
        done: how many days of the next snapshot are reported already.
    """

    snapshot: int = 0
    at: int = 0
    done: int = 0

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "CommitCursor":
        """From a sensor's cursor."""
        return cls(**json.loads(cursor)) if cursor else cls()

    def to_cursor(self) -> str:
        """As a sensor's cursor."""
        return json.dumps(vars(self))


def build_external_commits_sensor(
    partitions: dg.PartitionsDefinition[Any], interval_seconds: int
) -> list[dg.SensorDefinition]:
    """The sensor, evaluated every `interval_seconds`. `partitions` are those of trades."""

    @dg.sensor(
        name="external_trades_commits",
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports commits of other writers to trades, as materializations of the days that "
        "they changed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        for run in context.instance.get_runs(filters=dg.RunsFilter(statuses=IN_FLIGHT_STATUSES)):
            if is_run_of_table(run, TRADES_TABLE) or run.tags.get(TABLE_TAG) == TRADES_TABLE:
                return dg.SkipReason(f"Run {run.run_id} writes trades. Its snapshots are known when it ends.")
        trades = Lake.open(Settings.from_environ()).trades()
        _update_backfill_size(context, trades)
        last = CommitCursor.from_cursor(context.cursor)
        new = _new_snapshots(trades, last)
        own = _own_snapshots(context.instance, new)
        external = [s for s in new if s.snapshot_id not in own]
        events, last = _collect_events(trades, external, partitions, last)
        if not events:
            last = CommitCursor(new[-1].snapshot_id, new[-1].timestamp_ms) if new else last
            reason = "All new snapshots are by runs of this graph." if new else "Trades have no new snapshot."
            return dg.SensorResult(skip_reason=reason, cursor=last.to_cursor())
        return dg.SensorResult(asset_events=events, cursor=last.to_cursor())

    return [sensor]


def _update_backfill_size(context: dg.SensorEvaluationContext, trades: Table) -> None:
    """Measure the runs of a backfill again if trades have grown. The next load of the graph uses it."""
    folder = backfill.measurement_folder(Settings.from_environ())
    try:
        size = update_backfill_size(trades, folder)
    except OSError as error:
        context.log.warning(f"The size of a backfill's runs cannot be kept in {folder}: {error}")
        return
    if size is not None:
        context.log.info(
            f"A run of a backfill has {size.days} days, or {size.months} months of 1d, by {size.trades:,} "
            "stored trades, when the code location is loaded again."
        )


def _new_snapshots(trades: Table, last: CommitCursor) -> list[Snapshot]:
    """The snapshots after the last reported one, in the history of the current one, oldest first.

    After a rollback the last reported snapshot is not in the history. Commit times decide then.
    """
    snapshots = []
    snapshot = trades.current_snapshot()
    while snapshot is not None and snapshot.snapshot_id != last.snapshot:
        snapshots.append(snapshot)
        parent = snapshot.parent_snapshot_id
        snapshot = trades.metadata.snapshot_by_id(parent) if parent else None
    return [s for s in reversed(snapshots) if snapshot is not None or s.timestamp_ms > last.at]


def _own_snapshots(instance: dg.DagsterInstance, new: Sequence[Snapshot]) -> set[int]:
    """The snapshots that runs of the graph committed, since the oldest of the new ones."""
    if not new:
        return set()
    since = dg.AssetRecordsFilter(dg.AssetKey(TRADES_TABLE), after_timestamp=new[0].timestamp_ms / 1000 - 1)
    own: set[int] = set()
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(since, limit=1000, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization
            snapshots = event.metadata.get(SNAPSHOTS_METADATA_KEY) if event else None
            if isinstance(snapshots, dg.JsonMetadataValue) and isinstance(snapshots.value, list):
                own.update(int(str(key)) for key in snapshots.value)
        if not page.has_more:
            return own
        cursor = page.cursor


def _collect_events(
    trades: Table, external: Sequence[Snapshot], partitions: dg.PartitionsDefinition[Any], last: CommitCursor
) -> tuple[list[dg.AssetMaterialization | dg.AssetObservation], CommitCursor]:
    """The events of external snapshots, at most `_MAX_EVENTS`, and the cursor after them.

    Each changed day is a materialization. Changes whose days the metadata does not show are an observation.
    """
    events: list[dg.AssetMaterialization | dg.AssetObservation] = []
    rows: dict[str, int] | None = None
    for snapshot in external:
        if _is_rewrite(snapshot):
            continue
        rows = count_rows_per_partition(trades) if rows is None else rows
        changes = rows_changed_per_day(trades, snapshot).items()
        days = [(Grain.DAY.key(day) if day else None, changed) for day, changed in changes]
        days = [(key, changed) for key, changed in days if key is None or partitions.has_partition_key(key)]
        free = _MAX_EVENTS - len(events)
        due = days[last.done :][:free]
        events += [
            _observation(snapshot, changed)
            if key is None
            else _materialization(snapshot, key, changed, rows.get(key, 0))
            for key, changed in due
        ]
        if last.done + len(due) < len(days):
            return events, CommitCursor(last.snapshot, last.at, last.done + len(due))
        last = CommitCursor(snapshot.snapshot_id, snapshot.timestamp_ms)
    return events, last


def _is_rewrite(snapshot: Snapshot) -> bool:
    summary = snapshot.summary
    return summary is not None and (
        summary.operation == Operation.REPLACE or summary.get(RETENTION_SUMMARY_KEY) is not None
    )


def _materialization(
    snapshot: Snapshot, key: str, changed: RowsChanged, rows: int
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        TRADES_TABLE,
        partition=key,
        description="Committed by another writer.",
        metadata={
            **_snapshot_metadata(snapshot),
            **partition_numbers(changed.added, rows),
            "trades_removed": changed.removed,
        },
    )


def _observation(snapshot: Snapshot, changed: RowsChanged) -> dg.AssetObservation:
    return dg.AssetObservation(
        TRADES_TABLE,
        description="Committed by another writer. The table's metadata does not show which days changed: "
        "files have no bounds of time, or cover years.",
        metadata={
            **_snapshot_metadata(snapshot),
            "trades_added": changed.added,
            "trades_removed": changed.removed,
        },
    )


def _snapshot_metadata(snapshot: Snapshot) -> dict[str, dg.MetadataValue[Any]]:
    operation = snapshot.summary.operation.value if snapshot.summary else "unknown"
    return {
        "snapshot": dg.MetadataValue.text(str(snapshot.snapshot_id)),
        "operation": dg.MetadataValue.text(operation),
        "committed_at": dg.MetadataValue.timestamp(snapshot.timestamp_ms / 1000),
    }

"""A sensor that reports what other writers committed to trades, so that the graph shows it.

What runs of ours committed is in the graph already: they list the snapshots that they made. All else is
theirs: another program's, or the command line's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from k2_ohlcv.defs.assets.trades import SNAPSHOTS_METADATA_KEY, partition_numbers
from k2_ohlcv.defs.dead_runs import IN_FLIGHT_STATUSES
from k2_ohlcv.defs.run_tags import TABLE_TAG
from k2_ohlcv.defs.sensors.refresh import is_run_of_table
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import RETENTION_SUMMARY_KEY
from k2_ohlcv.lake.metadata.table_stats import RowsChanged, count_rows_per_partition, rows_changed_per_day
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.settings import Settings

#: Dagster records an event in some 27 ms, and a look may take a minute.
_MAX_EVENTS = 500


@dataclass(frozen=True)
class CommitCursor:
    """What the sensor keeps: the snapshot reported last, when it was made, and what of it is told already.

    Attributes:
        snapshot: its id; 0 before the first.
        at: milliseconds since the epoch.
        done: so many of the days of the snapshot after it are told.
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
    there: dg.PartitionsDefinition[Any], tick: int
) -> list[dg.SensorDefinition]:
    """The sensor; `there` are the partitions of trades, `tick` the seconds between two looks."""

    @dg.sensor(
        name="external_trades_commits",
        minimum_interval_seconds=tick,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports what other writers committed to trades as materializations of the days that "
        "they touched.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        for run in context.instance.get_runs(filters=dg.RunsFilter(statuses=IN_FLIGHT_STATUSES)):
            if is_run_of_table(run, TRADES_TABLE) or run.tags.get(TABLE_TAG) == TRADES_TABLE:
                return dg.SkipReason(f"Run {run.run_id} writes trades: what it makes is known when it ends.")
        trades = Lake.open(Settings.from_environ()).trades()
        last = CommitCursor.from_cursor(context.cursor)
        unseen = _new_snapshots(trades, last)
        ours = _own_snapshots(context.instance, unseen)
        events, last = _collect_events(trades, [s for s in unseen if s.snapshot_id not in ours], there, last)
        if not events:
            last = CommitCursor(unseen[-1].snapshot_id, unseen[-1].timestamp_ms) if unseen else last
            said = "Nobody else has committed to trades." if not unseen else "All new snapshots are our own."
            return dg.SensorResult(skip_reason=said, cursor=last.to_cursor())
        return dg.SensorResult(asset_events=events, cursor=last.to_cursor())

    return [sensor]


def _new_snapshots(trades: Table, last: CommitCursor) -> list[Snapshot]:
    """The snapshots in the history of the current one that came after the last reported, oldest first.

    A history that was rolled back no longer has that one: time tells then.
    """
    found = []
    snapshot = trades.current_snapshot()
    while snapshot is not None and snapshot.snapshot_id != last.snapshot:
        found.append(snapshot)
        parent = snapshot.parent_snapshot_id
        snapshot = trades.metadata.snapshot_by_id(parent) if parent else None
    return [s for s in reversed(found) if snapshot is not None or s.timestamp_ms > last.at]


def _own_snapshots(instance: dg.DagsterInstance, unseen: Sequence[Snapshot]) -> set[int]:
    """Those snapshots of ours that were made since the oldest of some."""
    if not unseen:
        return set()
    since = dg.AssetRecordsFilter(
        dg.AssetKey(TRADES_TABLE), after_timestamp=unseen[0].timestamp_ms / 1000 - 1
    )
    made: set[int] = set()
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(since, limit=1000, cursor=cursor)
        for record in page.records:
            found = record.asset_materialization
            listed = found.metadata.get(SNAPSHOTS_METADATA_KEY) if found else None
            if isinstance(listed, dg.JsonMetadataValue) and isinstance(listed.value, list):
                made.update(int(str(key)) for key in listed.value)
        if not page.has_more:
            return made
        cursor = page.cursor


def _collect_events(
    trades: Table, theirs: Sequence[Snapshot], there: dg.PartitionsDefinition[Any], last: CommitCursor
) -> tuple[list[dg.AssetMaterialization | dg.AssetObservation], CommitCursor]:
    """The events that are due, at most so many, and what is reported with them.

    A materialization a day; one observation where a snapshot touched days that metadata does not tell.
    """
    events: list[dg.AssetMaterialization | dg.AssetObservation] = []
    rows: dict[str, int] | None = None
    for snapshot in theirs:
        if _is_rewrite(snapshot):
            continue
        rows = count_rows_per_partition(trades) if rows is None else rows
        found = rows_changed_per_day(trades, snapshot).items()
        days = [(Grain.DAY.key(day) if day else None, did) for day, did in found]
        days = [(key, did) for key, did in days if key is None or there.has_partition_key(key)]
        room = _MAX_EVENTS - len(events)
        due = days[last.done :][:room]
        events += [
            _observation(snapshot, did) if key is None else _event(snapshot, key, did, rows.get(key, 0))
            for key, did in due
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


def _event(snapshot: Snapshot, key: str, did: RowsChanged, rows: int) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        TRADES_TABLE,
        partition=key,
        description="Committed by another writer.",
        metadata={
            **_snapshot_metadata(snapshot),
            **partition_numbers(did.added, rows),
            "trades_removed": did.removed,
        },
    )


def _observation(snapshot: Snapshot, did: RowsChanged) -> dg.AssetObservation:
    return dg.AssetObservation(
        TRADES_TABLE,
        description="Committed by another writer. Which days it touched, the table's metadata does not tell: "
        "its files have no bounds of time or cover years.",
        metadata={**_snapshot_metadata(snapshot), "trades_added": did.added, "trades_removed": did.removed},
    )


def _snapshot_metadata(snapshot: Snapshot) -> dict[str, dg.MetadataValue[Any]]:
    operation = snapshot.summary.operation.value if snapshot.summary else "unknown"
    return {
        "snapshot": dg.MetadataValue.text(str(snapshot.snapshot_id)),
        "operation": dg.MetadataValue.text(operation),
        "committed_at": dg.MetadataValue.timestamp(snapshot.timestamp_ms / 1000),
    }

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

from k2_ohlcv.defs.named import TABLE_TAG
from k2_ohlcv.defs.refreshes import writes
from k2_ohlcv.defs.runs import IN_FLIGHT
from k2_ohlcv.defs.trades import MADE, partition_numbers
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import DROPS
from k2_ohlcv.lake.inventory import Touched, rows_per_partition, touched
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.settings import Settings

#: Dagster records an event in some 27 ms, and a look may take a minute.
_MOST_EVENTS = 500


@dataclass(frozen=True)
class Reported:
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
    def of(cls, cursor: str | None) -> "Reported":
        """From a sensor's cursor."""
        return cls(**json.loads(cursor)) if cursor else cls()

    def cursor(self) -> str:
        """As a sensor's cursor."""
        return json.dumps(vars(self))


def build(there: dg.PartitionsDefinition[Any], tick: int) -> list[dg.SensorDefinition]:
    """The sensor; `there` are the partitions of trades, `tick` the seconds between two looks."""

    @dg.sensor(
        name="trades_of_others",
        minimum_interval_seconds=tick,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports what other writers committed to trades as materializations of the days that "
        "they touched.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        for run in context.instance.get_runs(filters=dg.RunsFilter(statuses=IN_FLIGHT)):
            if writes(run, TRADES_TABLE) or run.tags.get(TABLE_TAG) == TRADES_TABLE:
                return dg.SkipReason(f"Run {run.run_id} writes trades: what it makes is known when it ends.")
        trades = Lake.open(Settings.read()).trades()
        last = Reported.of(context.cursor)
        unseen = _unseen(trades, last)
        ours = _ours(context.instance, unseen)
        events, last = _events(trades, [s for s in unseen if s.snapshot_id not in ours], there, last)
        if not events:
            last = Reported(unseen[-1].snapshot_id, unseen[-1].timestamp_ms) if unseen else last
            said = "Nobody else has committed to trades." if not unseen else "All new snapshots are our own."
            return dg.SensorResult(skip_reason=said, cursor=last.cursor())
        return dg.SensorResult(asset_events=events, cursor=last.cursor())

    return [sensor]


def _unseen(trades: Table, last: Reported) -> list[Snapshot]:
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


def _ours(instance: dg.DagsterInstance, unseen: Sequence[Snapshot]) -> set[int]:
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
            listed = found.metadata.get(MADE) if found else None
            if isinstance(listed, dg.JsonMetadataValue) and isinstance(listed.value, list):
                made.update(int(str(key)) for key in listed.value)
        if not page.has_more:
            return made
        cursor = page.cursor


def _events(
    trades: Table, theirs: Sequence[Snapshot], there: dg.PartitionsDefinition[Any], last: Reported
) -> tuple[list[dg.AssetMaterialization | dg.AssetObservation], Reported]:
    """The events that are due, at most so many, and what is reported with them.

    A materialization a day; one observation where a snapshot touched days that metadata does not tell.
    """
    events: list[dg.AssetMaterialization | dg.AssetObservation] = []
    rows: dict[str, int] | None = None
    for snapshot in theirs:
        if _only_moves(snapshot):
            continue
        rows = rows_per_partition(trades) if rows is None else rows
        found = touched(trades, snapshot).items()
        days = [(Grain.DAY.key(day) if day else None, did) for day, did in found]
        days = [(key, did) for key, did in days if key is None or there.has_partition_key(key)]
        room = _MOST_EVENTS - len(events)
        due = days[last.done :][:room]
        events += [
            _observation(snapshot, did) if key is None else _event(snapshot, key, did, rows.get(key, 0))
            for key, did in due
        ]
        if last.done + len(due) < len(days):
            return events, Reported(last.snapshot, last.at, last.done + len(due))
        last = Reported(snapshot.snapshot_id, snapshot.timestamp_ms)
    return events, last


def _only_moves(snapshot: Snapshot) -> bool:
    summary = snapshot.summary
    return summary is not None and (summary.operation == Operation.REPLACE or summary.get(DROPS) is not None)


def _event(snapshot: Snapshot, key: str, did: Touched, rows: int) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        TRADES_TABLE,
        partition=key,
        description="Committed by another writer.",
        metadata={
            **_about(snapshot),
            **partition_numbers(did.added, rows),
            "trades_removed": did.removed,
        },
    )


def _observation(snapshot: Snapshot, did: Touched) -> dg.AssetObservation:
    return dg.AssetObservation(
        TRADES_TABLE,
        description="Committed by another writer. Which days it touched, the table's metadata does not tell: "
        "its files have no bounds of time or cover years.",
        metadata={**_about(snapshot), "trades_added": did.added, "trades_removed": did.removed},
    )


def _about(snapshot: Snapshot) -> dict[str, dg.MetadataValue[Any]]:
    operation = snapshot.summary.operation.value if snapshot.summary else "unknown"
    return {
        "snapshot": dg.MetadataValue.text(str(snapshot.snapshot_id)),
        "operation": dg.MetadataValue.text(operation),
        "committed_at": dg.MetadataValue.timestamp(snapshot.timestamp_ms / 1000),
    }

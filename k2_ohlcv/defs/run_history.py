"""Purges old runs from Dagster's storage: runs, events, check evaluations, compute logs.

Kept for ever: the newest materialization of each partition, the newest evaluation of each check, and their
runs, because the UI shows them. `DagsterInstance.delete_run` deletes those too, and on SQLite leaves files
and tags. The tables are therefore read and changed below Dagster's public API, on SQLite and Postgres alike.
The schedule is in `schedules`. Dagster itself purges ticks, by `retention` in dagster.yaml.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import dagster as dg
import sqlalchemy as sa
from dagster._core.events import DagsterEventType
from dagster._core.instance.utils import RUNLESS_RUN_ID
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
#: The events whose newest one of each asset and partition is kept.
_KEPT_EVENTS = [
    DagsterEventType.ASSET_MATERIALIZATION.value,
    DagsterEventType.ASSET_OBSERVATION.value,
    DagsterEventType.FRESHNESS_STATE_CHANGE.value,
]
_ENDED_CHECKS = [
    AssetCheckExecutionRecordStatus.SUCCEEDED.value,
    AssetCheckExecutionRecordStatus.FAILED.value,
]
#: The ids in one statement. SQLite accepts some 32,000.
_BATCH = 500
#: The most runs of one purge: some minutes. The next night continues.
MAX_RUNS = 20_000

_T = TypeVar("_T", int, str)
_events, _checks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c


@dataclass
class PurgeReport:
    """What a purge removed.

    Attributes:
        runs: runs that were removed.
        runs_left: old runs that are left for the next purge.
        runs_kept: old runs that are kept, because the UI shows their results.
        events: events that were removed from the tables. Files of events on SQLite are not counted.
        checks: check evaluations that were removed.
    """

    runs: int = 0
    runs_left: int = 0
    runs_kept: int = 0
    events: int = 0
    checks: int = 0

    def as_metadata(self) -> dict[str, int]:
        """The numbers as metadata of the step."""
        return dict(vars(self))


@dataclass(frozen=True)
class _Kept:
    """The ids of events that are kept, and of the runs that made them or a kept check evaluation."""

    events: frozenset[int] = field(repr=False)
    runs: frozenset[str] = field(repr=False)


def purge_run_history(
    instance: dg.DagsterInstance, before: datetime, max_runs: int = MAX_RUNS
) -> PurgeReport | None:
    """Remove ended runs that were last updated before a time, with all that belongs to them.

    Each batch of runs is removed for itself. A purge that is killed is continued by the next one.

    Args:
        instance: Dagster's instance.
        before: the time; events and check evaluations outside runs are removed before it too.
        max_runs: the most runs to remove, the oldest first.

    Returns:
        What was removed; None if the storage is of a kind that cannot be purged.
    """
    storage, runs = instance.event_log_storage, instance.run_storage
    if not isinstance(storage, SqlEventLogStorage) or not isinstance(runs, SqlRunStorage):
        return None
    report = PurgeReport()
    report.checks = _purge_checks(storage, before)
    kept = _find_kept(storage)
    old = instance.get_run_ids(filters=dg.RunsFilter(statuses=_ENDED, updated_before=before))[::-1]
    removable = [run_id for run_id in old if run_id not in kept.runs]
    report.runs_left = max(0, len(removable) - max_runs)
    report.runs_kept = len(old) - len(removable)
    for batch in _batches(removable[:max_runs]):
        report.events += _purge_events(storage, _events.run_id.in_(batch), kept)
        _remove_files(instance, storage, batch)
        _delete_runs(runs, batch)
        report.runs += len(batch)
    for batch in _batches([run_id for run_id in old if run_id in kept.runs]):
        report.events += _purge_events(storage, _events.run_id.in_(batch), kept)
        _remove_files(instance, storage, batch)
    report.events += _purge_runless_events(storage, before, kept)
    return report


def _find_kept(storage: SqlEventLogStorage) -> _Kept:
    newest = (
        sa.select(sa.func.max(_events.id))
        .where(_events.dagster_event_type.in_(_KEPT_EVENTS), _events.asset_key.is_not(None))
        .group_by(_events.asset_key, _events.dagster_event_type, _events.partition)
    )
    with storage.index_connection() as connection:
        ids = set(connection.execute(newest).scalars())
        checks = connection.execute(sa.select(_checks.evaluation_event_storage_id, _checks.run_id)).all()
        ids |= {event_id for event_id, _ in checks if event_id is not None}
        made_by = {run_id for _, run_id in checks}
        for batch in _batches(sorted(ids)):
            made_by |= set(
                connection.execute(sa.select(_events.run_id).where(_events.id.in_(batch))).scalars()
            )
    return _Kept(frozenset(ids), frozenset(made_by))


def _purge_checks(storage: SqlEventLogStorage, before: datetime) -> int:
    """Remove old check evaluations, except the newest of each check, and its newest one that has ended."""
    newest = sa.select(sa.func.max(_checks.id)).group_by(
        _checks.asset_key, _checks.check_name, _checks.partition
    )
    ended = newest.where(_checks.execution_status.in_(_ENDED_CHECKS))
    statement = sa.delete(AssetCheckExecutionsTable).where(
        _checks.create_timestamp < _naive(before), _checks.id.not_in(newest), _checks.id.not_in(ended)
    )
    with storage.index_connection() as connection:
        return int(connection.execute(statement).rowcount)


def _purge_events(storage: SqlEventLogStorage, which: sa.ColumnElement[bool], kept: _Kept) -> int:
    """Remove events that are not kept, with their tags."""
    with storage.index_connection() as connection:
        found = set(connection.execute(sa.select(_events.id).where(which)).scalars()) - kept.events
        for batch in _batches(sorted(found)):
            connection.execute(
                sa.delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(batch))
            )
            connection.execute(sa.delete(SqlEventLogStorageTable).where(_events.id.in_(batch)))
    return len(found)


def _purge_runless_events(storage: SqlEventLogStorage, before: datetime, kept: _Kept) -> int:
    """Remove old events outside runs: evaluations of the audit, and commits of other writers."""
    is_old = sa.and_(_events.run_id == RUNLESS_RUN_ID, _events.timestamp < _naive(before))
    if storage.is_run_sharded and Path(_run_file(storage, RUNLESS_RUN_ID)).exists():
        with storage.run_connection(RUNLESS_RUN_ID) as connection:  # their second copy
            connection.execute(sa.delete(SqlEventLogStorageTable).where(is_old))
    return _purge_events(storage, is_old, kept)


def _remove_files(instance: dg.DagsterInstance, storage: SqlEventLogStorage, run_ids: Sequence[str]) -> None:
    """Remove the files of runs: captured output, outputs of steps, and on SQLite the events of each run."""
    for run_id in run_ids:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        for path in _files_of_run(instance, storage, run_id):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _files_of_run(instance: dg.DagsterInstance, storage: SqlEventLogStorage, run_id: str) -> Iterator[Path]:
    yield Path(instance.storage_directory()) / run_id
    if storage.is_run_sharded:
        events = _run_file(storage, run_id)
        yield from (Path(events + suffix) for suffix in ("", "-wal", "-shm"))


def _run_file(storage: SqlEventLogStorage, run_id: str) -> str:
    """The SQLite file of the events of one run."""
    assert isinstance(storage, SqliteEventLogStorage)
    return str(storage.path_for_shard(run_id))


def _delete_runs(runs: SqlRunStorage, run_ids: Sequence[str]) -> None:
    """Delete runs and their tags. SQLite does not delete the tags with the run."""
    with runs.connect() as connection:
        connection.execute(sa.delete(RunTagsTable).where(RunTagsTable.c.run_id.in_(run_ids)))
        connection.execute(sa.delete(RunsTable).where(RunsTable.c.run_id.in_(run_ids)))


def _batches(ids: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))


def _naive(time: datetime) -> datetime:
    """A time as Dagster's tables store it: in UTC, without a zone."""
    return time.astimezone(UTC).replace(tzinfo=None)

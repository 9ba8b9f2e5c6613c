"""A sensor per candle table: asks for a refresh when the table's freshness policy wants one.

It judges by the tables themselves and reads metadata only. Dagster's own verdict would not do: it counts from
the last materialization of any partition, and a backfill of an old one would turn it green.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy  # its windows; not exported

from k2_ohlcv.defs import jobs, run_tags
from k2_ohlcv.defs.dead_runs import IN_FLIGHT_STATUSES
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata.lag import TableLag
from k2_ohlcv.settings import Settings

#: A refresh of what gathered within the longest window takes seconds; what takes minutes is stuck. Where much
#: is to be done the limit grows: an engine reads and commits a multiple of so many trades and days a second.
MIN_RUN_SECONDS = 300
_TRADES_PER_SECOND, _PARTITIONS_PER_SECOND = 20_000, 2
#: So many partitions are within the least limit.
_FREE_PARTITIONS = 31
#: The pause after runs that left the watermark where it was: so long after one, twice as long after two.
_MIN_RETRY_DELAY, _MAX_RETRY_DELAY = timedelta(minutes=1), timedelta(hours=1)
_ENDED_STATUSES = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dataclass(frozen=True)
class TableRuns:
    """What the instance knows of a table's runs.

    Attributes:
        in_flight: the id of one that is queued or at work, and its status; None if there is none.
        ended: how many were asked for at the present state of the table and have ended. They failed without
            any progress, else the state would have changed.
        last_end: when the last of those ended.
        refused_end: when the last run of the table ended, where windows of the table are refused.
    """

    in_flight: tuple[str, str] | None = None
    ended: int = 0
    last_end: datetime | None = None
    refused_end: datetime | None = None


def build_refresh_sensors(assets: Sequence[dg.AssetsDefinition], tick: int) -> list[dg.SensorDefinition]:
    """The sensors of the candle tables among some assets; `tick` is the seconds between two looks."""
    by_name = {asset.key.to_user_string(): asset for asset in assets}
    return [refresh_sensor(timeframe, by_name[timeframe.table], tick) for timeframe in TIMEFRAMES]


def refresh_sensor(timeframe: Timeframe, asset: dg.AssetsDefinition, tick: int) -> dg.SensorDefinition:
    """The sensor of a candle table."""
    window = freshness_window(asset)

    @dg.sensor(
        name=f"{jobs.refresh_job_name(timeframe)}_when_stale",
        job_name=jobs.refresh_job_name(timeframe),
        minimum_interval_seconds=tick,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Refreshes {timeframe.table} before it is behind its trades for longer than {window}.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        found = TableLag.measure(Lake.open(Settings.from_environ()), timeframe)
        runs = table_runs(context.instance, found) if found.is_stale else TableRuns()
        reason = skip_reason(found, window, timedelta(seconds=tick), runs, datetime.now(UTC))
        return dg.SkipReason(reason) if reason else build_run_request(found, asset, runs.ended)

    return sensor


def freshness_window(asset: dg.AssetsDefinition) -> timedelta:
    """How long a table may be behind: what its freshness policy says."""
    policy = asset.get_asset_spec().freshness_policy
    assert isinstance(policy, TimeWindowFreshnessPolicy)
    window: timedelta = (policy.warn_window or policy.fail_window).to_timedelta()
    return window


def skip_reason(
    found: TableLag, window: timedelta, tick: timedelta, runs: TableRuns, now: datetime
) -> str | None:
    """Why no refresh is asked for now, in words; None if one is.

    Args:
        found: how far the table is behind.
        window: how long it may be.
        tick: until the next look, at which it would be too late.
        runs: what became of earlier runs.
        now: the moment of this look.
    """
    table, clock = found.timeframe.table, "%H:%M:%S UTC"
    if not found.is_stale:
        return f"{table} is up to date with trades snapshot {found.snapshot}."
    if runs.in_flight:
        run_id, status = runs.in_flight
        return f"{table} is behind, and run {run_id} is at it ({status.lower()})."
    since = found.stale_since or now - window
    behind = f"{table} is behind since {since:{clock}}"
    if now + tick < since + window:
        return (
            f"{behind}, for {_duration_text(now - since)}: it is refreshed before it is so "
            f"for {_duration_text(window)}."
        )
    return _delay_reason(found, behind, window - tick, runs, now)


def _delay_reason(
    found: TableLag, behind: str, cadence: timedelta, runs: TableRuns, now: datetime
) -> str | None:
    """Why the next run of a table waits for a moment, in words; None if it need not."""
    clock = "%H:%M:%S UTC"
    if found.refused and runs.refused_end:
        again = runs.refused_end + cadence
        broken = f"{len(found.refused)} of its windows break an invariant, the first is {found.refused[0]}"
        return f"{behind}, as {broken}: looked at again at {again:{clock}}." if now < again else None
    if runs.ended and runs.last_end and now < (again := runs.last_end + retry_delay(runs.ended)):
        return f"{behind}, and {runs.ended} runs left it so: the next is asked for at {again:{clock}}."
    return None


def retry_delay(ended: int) -> timedelta:
    """How long after the last of so many runs the next one is asked for."""
    return min(_MIN_RETRY_DELAY * int(2 ** min(ended - 1, 20)), _MAX_RETRY_DELAY)


def build_run_request(found: TableLag, asset: dg.AssetsDefinition, attempt: int) -> dg.RunRequest:
    """The run that refreshes a table.

    A used run key is skipped for ever, so it names the attempt too: a tick that repeats asks once, and what
    failed can be asked for again.
    """
    there = asset.partitions_def
    assert there is not None
    tags = {**run_tags.refresh_tags(found), run_tags.ATTEMPT_TAG: str(attempt)}
    return dg.RunRequest(
        run_key=":".join(tags.values()),
        partition_key=run_tags.newest_dirty_partition(there, found.timeframe.grain, found.dirty_partitions()),
        run_config=jobs.refresh_config(found.timeframe),
        tags={
            **tags,
            "dagster/max_runtime": str(max_run_seconds(found)),
            # The shorter the windows, the sooner somebody looks at them.
            "dagster/priority": str(len(TIMEFRAMES) - TIMEFRAMES.index(found.timeframe)),
        },
    )


def max_run_seconds(found: TableLag) -> int:
    """How long a refresh may take."""
    trades, partitions = found.estimate_work()
    many = max(0, partitions - _FREE_PARTITIONS)
    return MIN_RUN_SECONDS + int(trades / _TRADES_PER_SECOND + many / _PARTITIONS_PER_SECOND)


def table_runs(instance: dg.DagsterInstance, found: TableLag) -> TableRuns:
    """What became of the runs of a table."""
    table = found.timeframe.table
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=IN_FLIGHT_STATUSES)):
        if is_run_of_table(run, table):
            return TableRuns(in_flight=(run.run_id, run.status.value))
    tags = run_tags.refresh_tags(found)
    del tags[run_tags.SNAPSHOT_TAG]  # trades go on growing while their refresh fails
    ended = dg.RunsFilter(tags=tags, statuses=_ENDED_STATUSES)
    any_refused = {run_tags.TABLE_TAG: table, run_tags.REFUSED_TAG: "true"}
    return TableRuns(
        ended=instance.get_runs_count(filters=ended),
        last_end=_last_end(instance, ended),
        refused_end=_last_end(instance, dg.RunsFilter(tags=any_refused)) if found.refused else None,
    )


def _last_end(instance: dg.DagsterInstance, runs: dg.RunsFilter) -> datetime | None:
    """When the newest of some runs ended."""
    latest = instance.get_run_records(filters=runs, limit=1)
    end = latest[0].end_time if latest else None
    return datetime.fromtimestamp(end, UTC) if end else None


def is_run_of_table(run: dg.DagsterRun, table: str) -> bool:
    """Whether a run is one of a table: a refresh, a rebuild, a backfill."""
    if run.asset_selection is not None:
        return dg.AssetKey(table) in run.asset_selection
    return table in jobs.tables_of_job(run.job_name)


def _duration_text(span: timedelta) -> str:
    return str(timedelta(seconds=round(span.total_seconds())))

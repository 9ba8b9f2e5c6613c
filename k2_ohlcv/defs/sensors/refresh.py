"""The refresh sensors, one a candle table: request a refresh before the table breaks its freshness policy.

They measure the lag from the metadata of the tables. Dagster's own freshness would not do: it counts from
the last materialization of any partition, so a backfill of an old partition would make a stale table fresh.
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

#: A usual refresh takes seconds, so one that takes minutes is stuck.
MIN_RUN_SECONDS = 300
#: The limit grows with the work. An engine reads and commits several times as much a second.
_TRADES_PER_SECOND, _PARTITIONS_PER_SECOND = 20_000, 2
#: The minimum limit allows for so many partitions.
_FREE_PARTITIONS = 31
#: The pause after one run that made no progress. It doubles with each further run.
_MIN_RETRY_DELAY, _MAX_RETRY_DELAY = timedelta(minutes=1), timedelta(hours=1)
_ENDED_STATUSES = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dataclass(frozen=True)
class TableRuns:
    """The runs of a table, as the instance records them.

    Attributes:
        in_flight: the id and status of a run that is queued or at work; None if there is none.
        ended: how many runs ended that were requested for the present state of the table. They made no
            progress, since progress changes the state.
        last_end: when the last of those ended.
        refused_end: when the last run that refused windows ended; None unless the table has refused windows.
    """

    in_flight: tuple[str, str] | None = None
    ended: int = 0
    last_end: datetime | None = None
    refused_end: datetime | None = None


def build_refresh_sensors(
    assets: Sequence[dg.AssetsDefinition], interval_seconds: int
) -> list[dg.SensorDefinition]:
    """The sensors of all candle tables, evaluated every `interval_seconds`. `assets` include the tables."""
    by_name = {asset.key.to_user_string(): asset for asset in assets}
    return [refresh_sensor(timeframe, by_name[timeframe.table], interval_seconds) for timeframe in TIMEFRAMES]


def refresh_sensor(
    timeframe: Timeframe, asset: dg.AssetsDefinition, interval_seconds: int
) -> dg.SensorDefinition:
    """The sensor of a candle table."""
    window = freshness_window(asset)

    @dg.sensor(
        name=f"{jobs.refresh_job_name(timeframe)}_when_stale",
        job_name=jobs.refresh_job_name(timeframe),
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Refreshes {timeframe.table} before it lags behind its trades by more than {window}.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        lag = TableLag.measure(Lake.open(Settings.from_environ()), timeframe)
        runs = table_runs(context.instance, lag) if lag.is_stale else TableRuns()
        reason = skip_reason(lag, window, timedelta(seconds=interval_seconds), runs, datetime.now(UTC))
        return dg.SkipReason(reason) if reason else build_run_request(lag, asset, runs.ended)

    return sensor


def freshness_window(asset: dg.AssetsDefinition) -> timedelta:
    """The lag at which the table's freshness policy warns."""
    policy = asset.get_asset_spec().freshness_policy
    assert isinstance(policy, TimeWindowFreshnessPolicy)
    window: timedelta = (policy.warn_window or policy.fail_window).to_timedelta()
    return window


def skip_reason(
    lag: TableLag, window: timedelta, interval: timedelta, runs: TableRuns, now: datetime
) -> str | None:
    """Why the sensor requests no refresh now; None if it does.

    Args:
        lag: how far the table lags.
        window: the lag that its freshness policy allows.
        interval: the time until the next evaluation. A refresh that would be late by then is due now.
        runs: earlier runs of the table.
        now: the time of this evaluation.
    """
    table, clock = lag.timeframe.table, "%H:%M:%S UTC"
    if not lag.is_stale:
        return f"{table} is up to date with trades snapshot {lag.snapshot}."
    if runs.in_flight:
        run_id, status = runs.in_flight
        return f"{table} is behind its trades. Run {run_id} is refreshing it ({status.lower()})."
    since = lag.stale_since or now - window
    behind = f"{table} has been behind its trades since {since:{clock}}"
    if now + interval < since + window:
        return (
            f"{behind}, for {_duration_text(now - since)}. It is refreshed before {_duration_text(window)}."
        )
    return _delay_reason(lag, behind, window - interval, runs, now)


def _delay_reason(
    lag: TableLag, behind: str, cadence: timedelta, runs: TableRuns, now: datetime
) -> str | None:
    """Why the next run of a table has to wait; None if it need not."""
    clock = "%H:%M:%S UTC"
    if lag.refused and runs.refused_end:
        again = runs.refused_end + cadence
        broken = f"{len(lag.refused)} of its windows break an invariant. The first is {lag.refused[0]}"
        return f"{behind}: {broken}. The next run is requested at {again:{clock}}." if now < again else None
    if runs.ended and runs.last_end and now < (again := runs.last_end + retry_delay(runs.ended)):
        return f"{behind}. {runs.ended} runs made no progress. The next is requested at {again:{clock}}."
    return None


def retry_delay(ended: int) -> timedelta:
    """The pause before the next run, after so many runs that made no progress."""
    return min(_MIN_RETRY_DELAY * int(2 ** min(ended - 1, 20)), _MAX_RETRY_DELAY)


def build_run_request(lag: TableLag, asset: dg.AssetsDefinition, attempt: int) -> dg.RunRequest:
    """The run that refreshes a table.

    Dagster never uses a run key twice, whatever became of its run. The key therefore has the attempt in it:
    an evaluation that is repeated requests one run, and a failed run can be requested again.
    """
    partitions = asset.partitions_def
    assert partitions is not None
    tags = {**run_tags.refresh_tags(lag), run_tags.ATTEMPT_TAG: str(attempt)}
    dirty = lag.dirty_partitions()
    return dg.RunRequest(
        run_key=":".join(tags.values()),
        partition_key=run_tags.newest_dirty_partition(partitions, lag.timeframe.grain, dirty),
        run_config=jobs.refresh_config(lag.timeframe),
        tags={
            **tags,
            "dagster/max_runtime": str(max_run_seconds(lag)),
            # Tables of shorter windows are read sooner, so they are refreshed first.
            "dagster/priority": str(len(TIMEFRAMES) - TIMEFRAMES.index(lag.timeframe)),
        },
    )


def max_run_seconds(lag: TableLag) -> int:
    """The limit of a refresh's run time."""
    trades, partitions = lag.estimate_work()
    extra_partitions = max(0, partitions - _FREE_PARTITIONS)
    return MIN_RUN_SECONDS + int(trades / _TRADES_PER_SECOND + extra_partitions / _PARTITIONS_PER_SECOND)


def table_runs(instance: dg.DagsterInstance, lag: TableLag) -> TableRuns:
    """The runs of a table: one in flight, else those that ended without progress."""
    table = lag.timeframe.table
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=IN_FLIGHT_STATUSES)):
        if is_run_of_table(run, table):
            return TableRuns(in_flight=(run.run_id, run.status.value))
    tags = run_tags.refresh_tags(lag)
    del tags[run_tags.SNAPSHOT_TAG]  # new trades may arrive while the refresh fails
    ended = dg.RunsFilter(tags=tags, statuses=_ENDED_STATUSES)
    any_refused = {run_tags.TABLE_TAG: table, run_tags.REFUSED_TAG: "true"}
    return TableRuns(
        ended=instance.get_runs_count(filters=ended),
        last_end=_last_end(instance, ended),
        refused_end=_last_end(instance, dg.RunsFilter(tags=any_refused)) if lag.refused else None,
    )


def _last_end(instance: dg.DagsterInstance, runs: dg.RunsFilter) -> datetime | None:
    """When the newest of the runs ended."""
    latest = instance.get_run_records(filters=runs, limit=1)
    end = latest[0].end_time if latest else None
    return datetime.fromtimestamp(end, UTC) if end else None


def is_run_of_table(run: dg.DagsterRun, table: str) -> bool:
    """Whether a run writes the table: a refresh, a rebuild or a backfill."""
    if run.asset_selection is not None:
        return dg.AssetKey(table) in run.asset_selection
    return table in jobs.tables_of_job(run.job_name)


def _duration_text(span: timedelta) -> str:
    return str(timedelta(seconds=round(span.total_seconds())))

"""A sensor per candle table: asks for a refresh when the table's freshness policy wants one.

It judges by the tables themselves and reads metadata only. Dagster's own verdict would not do: it counts from
the last materialization of any partition, and a backfill of an old one would turn it green.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.freshness import TimeWindowFreshnessPolicy  # its windows; not exported

from k2_ohlcv.defs import jobs, named
from k2_ohlcv.defs.runs import IN_FLIGHT
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.staleness import Staleness
from k2_ohlcv.settings import Settings

#: A refresh of what gathered within the longest window takes seconds; what takes minutes is stuck. Where much
#: is to be done the limit grows: an engine reads and commits a multiple of so many trades and days a second.
LEAST_SECONDS = 300
_TRADES_PER_SECOND, _PARTITIONS_PER_SECOND = 20_000, 2
#: So many partitions are within the least limit.
_FEW_PARTITIONS = 31
#: The pause after runs that left the watermark where it was: so long after one, twice as long after two.
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dataclass(frozen=True)
class Runs:
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


def build(assets: Sequence[dg.AssetsDefinition], tick: int) -> list[dg.SensorDefinition]:
    """The sensors of the candle tables among some assets; `tick` is the seconds between two looks."""
    by_name = {asset.key.to_user_string(): asset for asset in assets}
    return [refresh_sensor(timeframe, by_name[timeframe.table], tick) for timeframe in TIMEFRAMES]


def refresh_sensor(timeframe: Timeframe, asset: dg.AssetsDefinition, tick: int) -> dg.SensorDefinition:
    """The sensor of a candle table."""
    window = warn_window(asset)

    @dg.sensor(
        name=f"{jobs.refresh_of(timeframe)}_when_stale",
        job_name=jobs.refresh_of(timeframe),
        minimum_interval_seconds=tick,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Refreshes {timeframe.table} before it is behind its trades for longer than {window}.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        found = Staleness.of(Lake.open(Settings.read()), timeframe)
        runs = runs_of(context.instance, found) if found.is_behind else Runs()
        reason = why_not(found, window, timedelta(seconds=tick), runs, datetime.now(UTC))
        return dg.SkipReason(reason) if reason else request(found, asset, runs.ended)

    return sensor


def warn_window(asset: dg.AssetsDefinition) -> timedelta:
    """How long a table may be behind: what its freshness policy says."""
    policy = asset.get_asset_spec().freshness_policy
    assert isinstance(policy, TimeWindowFreshnessPolicy)
    window: timedelta = (policy.warn_window or policy.fail_window).to_timedelta()
    return window


def why_not(found: Staleness, window: timedelta, tick: timedelta, runs: Runs, now: datetime) -> str | None:
    """Why no refresh is asked for now, in words; None if one is.

    Args:
        found: how far the table is behind.
        window: how long it may be.
        tick: until the next look, at which it would be too late.
        runs: what became of earlier runs.
        now: the moment of this look.
    """
    table, clock = found.timeframe.table, "%H:%M:%S UTC"
    if not found.is_behind:
        return f"{table} is up to date with trades snapshot {found.snapshot}."
    if runs.in_flight:
        run_id, status = runs.in_flight
        return f"{table} is behind, and run {run_id} is at it ({status.lower()})."
    since = found.since or now - window
    behind = f"{table} is behind since {since:{clock}}"
    if now + tick < since + window:
        return f"{behind}, for {_said(now - since)}: it is refreshed before it is so for {_said(window)}."
    return _pause_reason(found, behind, window - tick, runs, now)


def _pause_reason(found: Staleness, behind: str, cadence: timedelta, runs: Runs, now: datetime) -> str | None:
    """Why the next run of a table waits for a moment, in words; None if it need not."""
    clock = "%H:%M:%S UTC"
    if found.refused and runs.refused_end:
        again = runs.refused_end + cadence
        broken = f"{len(found.refused)} of its windows break an invariant, the first is {found.refused[0]}"
        return f"{behind}, as {broken}: looked at again at {again:{clock}}." if now < again else None
    if runs.ended and runs.last_end and now < (again := runs.last_end + pause(runs.ended)):
        return f"{behind}, and {runs.ended} runs left it so: the next is asked for at {again:{clock}}."
    return None


def pause(ended: int) -> timedelta:
    """How long after the last of so many runs the next one is asked for."""
    return min(_FIRST_PAUSE * int(2 ** min(ended - 1, 20)), _LONGEST_PAUSE)


def request(found: Staleness, asset: dg.AssetsDefinition, attempt: int) -> dg.RunRequest:
    """The run that refreshes a table.

    A used run key is skipped for ever, so it names the attempt too: a tick that repeats asks once, and what
    failed can be asked for again.
    """
    there = asset.partitions_def
    assert there is not None
    tags = {**named.tags_of(found), named.ATTEMPT_TAG: str(attempt)}
    return dg.RunRequest(
        run_key=":".join(tags.values()),
        partition_key=named.newest(there, found.timeframe.grain, found.dirty()),
        run_config=jobs.refresh_config(found.timeframe),
        tags={
            **tags,
            "dagster/max_runtime": str(most_seconds(found)),
            # The shorter the windows, the sooner somebody looks at them.
            "dagster/priority": str(len(TIMEFRAMES) - TIMEFRAMES.index(found.timeframe)),
        },
    )


def most_seconds(found: Staleness) -> int:
    """How long a refresh may take."""
    trades, partitions = found.workload()
    many = max(0, partitions - _FEW_PARTITIONS)
    return LEAST_SECONDS + int(trades / _TRADES_PER_SECOND + many / _PARTITIONS_PER_SECOND)


def runs_of(instance: dg.DagsterInstance, found: Staleness) -> Runs:
    """What became of the runs of a table."""
    table = found.timeframe.table
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=IN_FLIGHT)):
        if writes(run, table):
            return Runs(in_flight=(run.run_id, run.status.value))
    tags = named.tags_of(found)
    del tags[named.SNAPSHOT_TAG]  # trades go on growing while their refresh fails
    ended = dg.RunsFilter(tags=tags, statuses=_ENDED)
    any_refused = {named.TABLE_TAG: table, named.REFUSED_TAG: "true"}
    return Runs(
        ended=instance.get_runs_count(filters=ended),
        last_end=_last_end(instance, ended),
        refused_end=_last_end(instance, dg.RunsFilter(tags=any_refused)) if found.refused else None,
    )


def _last_end(instance: dg.DagsterInstance, runs: dg.RunsFilter) -> datetime | None:
    """When the newest of some runs ended."""
    latest = instance.get_run_records(filters=runs, limit=1)
    end = latest[0].end_time if latest else None
    return datetime.fromtimestamp(end, UTC) if end else None


def writes(run: dg.DagsterRun, table: str) -> bool:
    """Whether a run is one of a table: a refresh, a rebuild, a backfill."""
    if run.asset_selection is not None:
        return dg.AssetKey(table) in run.asset_selection
    return table in jobs.tables_of(run.job_name)


def _said(span: timedelta) -> str:
    return str(timedelta(seconds=round(span.total_seconds())))

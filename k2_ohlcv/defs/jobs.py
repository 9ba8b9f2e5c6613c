"""The asset jobs that people, sensors and the command line launch.

All tables of one job have the same partitions, as Dagster demands.
"""

from typing import Any

import dagster as dg

from k2_ohlcv.defs import retention_checks
from k2_ohlcv.defs.assets.candles import Mode
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.settings import Settings

INGEST_JOB = "ingest_landing"
REBUILD_JOB = {Grain.DAY: "rebuild_daily", Grain.MONTH: "rebuild_monthly"}


def refresh_job_name(timeframe: Timeframe) -> str:
    """The name of the job that refreshes a candle table."""
    return f"refresh_{timeframe.name}"


def rebuild_jobs(settings: Settings) -> dict[str, list[Timeframe]]:
    """The tables of each rebuild job, by the job's name.

    The tables of a job share one scan of the trades and must have the same partitions. With
    `K2_START_DATE=retention` the partitions of each table begin on another day. Each table then has its own
    job.
    """
    if settings.start_date is None:
        return {_rebuild_job_name(timeframe): [timeframe] for timeframe in TIMEFRAMES}
    return {name: timeframes_of_grain(grain) for grain, name in REBUILD_JOB.items()}


def _rebuild_job_name(timeframe: Timeframe) -> str:
    return f"rebuild_{timeframe.name}"


def tables_of_job(job: str) -> set[str]:
    """The names of the tables that a job of this graph writes if none is deselected; none for other jobs."""
    if job == INGEST_JOB:
        return {TRADES_TABLE}
    rebuilt = {
        t.table for grain, name in REBUILD_JOB.items() if name == job for t in timeframes_of_grain(grain)
    }
    return rebuilt | {t.table for t in TIMEFRAMES if job in {refresh_job_name(t), _rebuild_job_name(t)}}


def timeframes_of_grain(grain: Grain) -> list[Timeframe]:
    """The timeframes whose tables have partitions of this grain."""
    return [timeframe for timeframe in TIMEFRAMES if timeframe.grain is grain]


def build_jobs(settings: Settings) -> list[Any]:  # Dagster does not export the type of an asset job
    """The jobs. A job runs the checks of its assets too, except those of retention.

    When a person selects some assets of a job, Dagster adds the retention checks again. They drop nothing.
    """
    ingest = dg.define_asset_job(
        INGEST_JOB,
        selection=_asset_selection(TRADES_TABLE),
        description="Ingest the landing files' trades of the chosen days.",
    )
    rebuilding = [
        dg.define_asset_job(
            name,
            selection=_asset_selection(*(t.table for t in tables)),
            description=f"Make the chosen {tables[0].grain.value}s of {', '.join(t.table for t in tables)} "
            "equal to the trades, and check them.",
        )
        for name, tables in rebuild_jobs(settings).items()
    ]
    refreshes = [
        dg.define_asset_job(
            refresh_job_name(timeframe),
            selection=_asset_selection(timeframe.table),
            config=refresh_config(timeframe),
            description="Reconcile the dirty windows of this table, in whatever partitions they are, and "
            "check those partitions.",
        )
        for timeframe in TIMEFRAMES
    ]
    return [ingest, *rebuilding, *refreshes]


def _asset_selection(*names: str) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*names) - retention_checks.checks_selection()


def refresh_config(timeframe: Timeframe) -> dict[str, Any]:
    """The run config that makes a run of a candle table's asset a refresh."""
    return {"ops": {timeframe.table: {"config": {"mode": Mode.refresh.value}}}}

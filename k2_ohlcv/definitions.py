"""Assembles the Dagster graph. Only a call reads the environment; an import does not."""

import warnings
from collections.abc import Sequence
from typing import Any

import dagster as dg

from k2_ohlcv import logs
from k2_ohlcv.defs import assets, checks, dead_runs, ingest_job, jobs, retention_checks, schedules
from k2_ohlcv.defs.resources import build_resources
from k2_ohlcv.defs.sensors import external_commits, landing, refresh
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.settings import Settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """The whole graph.

    Args:
        settings: where partitions begin, how stale tables may be, and how often sensors run. Each run reads
            all other settings itself.
    """
    with warnings.catch_warnings():
        # Dagster calls backfill policies beta. Its minor version is pinned because of them.
        warnings.simplefilter("ignore", dg.BetaWarning)
        tables = assets.build_assets(settings)
        seconds = settings.sensor_seconds
        days = _partitions_of_asset(tables, TRADES_TABLE)
        scheduled_jobs, all_schedules = schedules.build_scheduled_jobs()
        return dg.Definitions(
            assets=tables,
            asset_checks=[*checks.build_checks(), *retention_checks.build_retention_checks()],
            jobs=[*jobs.build_jobs(settings), ingest_job.build_ingest_job(days), *scheduled_jobs],
            schedules=all_schedules,
            sensors=[
                dead_runs.dead_runs,
                *landing.build_landing_sensor(seconds),
                *external_commits.build_external_commits_sensor(days, seconds),
                *refresh.build_refresh_sensors(tables, seconds),
            ],
            resources=build_resources(),
            executor=dg.in_process_executor,  # the steps of a run share one Spark session
        )


def _partitions_of_asset(tables: Sequence[dg.AssetsDefinition], name: str) -> dg.PartitionsDefinition[Any]:
    (partitions,) = [table.partitions_def for table in tables if table.key == dg.AssetKey(name)]
    assert partitions is not None
    return partitions


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions that Dagster loads, with the environment of that moment."""
    settings = Settings.from_environ()
    if settings.log_json:
        logs.configure(json_lines=True)  # every process of a run calls this function before it logs
    return build_definitions(settings)

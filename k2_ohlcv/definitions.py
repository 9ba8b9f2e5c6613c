"""The Dagster definitions, from the parts in `defs`. No asset, check, job or sensor is defined here.

The import reads no environment. The function `defs` reads the environment.
"""

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
    """Build the whole graph.

    Args:
        settings: the start of the partitions, the freshness limits and the interval of the sensors. Each run
            reads all other settings from its own environment.
    """
    with warnings.catch_warnings():
        # Dagster marks backfill policies as beta. pyproject.toml therefore pins Dagster's minor version.
        warnings.simplefilter("ignore", dg.BetaWarning)
        tables = assets.build_assets(settings)
        interval = settings.sensor_seconds
        days = _partitions_of_asset(tables, TRADES_TABLE)
        scheduled_jobs, all_schedules = schedules.build_scheduled_jobs()
        return dg.Definitions(
            assets=tables,
            asset_checks=[*checks.build_checks(), *retention_checks.build_retention_checks()],
            jobs=[*jobs.build_jobs(settings), ingest_job.build_ingest_job(days), *scheduled_jobs],
            schedules=all_schedules,
            sensors=[
                dead_runs.dead_runs,
                *landing.build_landing_sensor(interval),
                *external_commits.build_external_commits_sensor(days, interval),
                *refresh.build_refresh_sensors(tables, interval),
            ],
            resources=build_resources(),
            executor=dg.in_process_executor,  # all steps of a run share one process and one engine session
        )


def _partitions_of_asset(tables: Sequence[dg.AssetsDefinition], name: str) -> dg.PartitionsDefinition[Any]:
    (partitions,) = [table.partitions_def for table in tables if table.key == dg.AssetKey(name)]
    assert partitions is not None
    return partitions


@dg.definitions
def defs() -> dg.Definitions:
    """Build the definitions from the environment. Dagster calls this function to load the project."""
    settings = Settings.from_environ()
    if settings.log_json:
        logs.configure(json_lines=True)  # every process of a run loads the definitions before it logs
    return build_definitions(settings)

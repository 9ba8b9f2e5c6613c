"""The only place where Definitions is built. Importing it reads no environment; calling it does."""

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
        settings: decide where partitions begin, how long tables may be behind, and how often sensors look;
            the rest is read by each run for itself.
    """
    with warnings.catch_warnings():
        # Backfill policies and the like are called beta; we pin Dagster's minor version because of them.
        warnings.simplefilter("ignore", dg.BetaWarning)
        tables = assets.build_assets(settings)
        tick = settings.sensor_seconds
        days = _partitions_of_asset(tables, TRADES_TABLE)
        clocked, all_schedules = schedules.build_scheduled_jobs()
        return dg.Definitions(
            assets=tables,
            asset_checks=[*checks.build_checks(), *retention_checks.build_retention_checks()],
            jobs=[*jobs.build_jobs(settings), ingest_job.build_ingest_job(days), *clocked],
            schedules=all_schedules,
            sensors=[
                dead_runs.dead_runs,
                *landing.build_landing_sensor(tick),
                *external_commits.build_external_commits_sensor(days, tick),
                *refresh.build_refresh_sensors(tables, tick),
            ],
            resources=build_resources(),
            executor=dg.in_process_executor,  # one run is one process, so all its steps share one session
        )


def _partitions_of_asset(tables: Sequence[dg.AssetsDefinition], name: str) -> dg.PartitionsDefinition[Any]:
    (found,) = [table.partitions_def for table in tables if table.key == dg.AssetKey(name)]
    assert found is not None
    return found


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads, with the environment of that moment."""
    settings = Settings.from_environ()
    if settings.log_json:
        logs.configure(json_lines=True)  # here, because every process of a run passes here before it logs
    return build_definitions(settings)

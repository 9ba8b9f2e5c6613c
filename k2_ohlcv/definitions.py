"""The only place where Definitions is built. Importing it reads no environment; calling it does."""

import warnings
from collections.abc import Sequence
from typing import Any

import dagster as dg

from k2_ohlcv import logs
from k2_ohlcv.defs import (
    assets,
    checks,
    ingest_files,
    jobs,
    landings,
    maintenance,
    others,
    refreshes,
    retention_checks,
    runs,
)
from k2_ohlcv.defs.resources import resources
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv.settings import Settings


def build(settings: Settings) -> dg.Definitions:
    """The whole graph.

    Args:
        settings: decide where partitions begin, how long tables may be behind, and how often sensors look;
            the rest is read by each run for itself.
    """
    with warnings.catch_warnings():
        # Backfill policies and the like are called beta; we pin Dagster's minor version because of them.
        warnings.simplefilter("ignore", dg.BetaWarning)
        tables = assets.build(settings)
        tick = settings.sensor_seconds
        days = _partitions_of(tables, TRADES_TABLE)
        clocked, schedules = maintenance.build()
        return dg.Definitions(
            assets=tables,
            asset_checks=[*checks.build(), *retention_checks.build()],
            jobs=[*jobs.build(settings), ingest_files.build(days), *clocked],
            schedules=schedules,
            sensors=[
                runs.dead_runs,
                *landings.build(tick),
                *others.build(days, tick),
                *refreshes.build(tables, tick),
            ],
            resources=resources(),
            executor=dg.in_process_executor,  # one run is one process, so all its steps share one session
        )


def _partitions_of(tables: Sequence[dg.AssetsDefinition], name: str) -> dg.PartitionsDefinition[Any]:
    (found,) = [table.partitions_def for table in tables if table.key == dg.AssetKey(name)]
    assert found is not None
    return found


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads, with the environment of that moment."""
    settings = Settings.read()
    if settings.log_json:
        logs.configure(json_lines=True)  # here, because every process of a run passes here before it logs
    return build(settings)

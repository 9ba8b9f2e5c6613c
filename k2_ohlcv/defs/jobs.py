"""Jobs: what people and the command line launch. One job has one partitions definition, hence three."""

from typing import Any

import dagster as dg

from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.lake.schemas import TRADES_TABLE

INGEST = "ingest_landing"
REBUILD = {Grain.DAY: "rebuild_daily", Grain.MONTH: "rebuild_monthly"}


def tables(grain: Grain) -> list[Timeframe]:
    """The timeframes whose tables have partitions of this grain."""
    return [timeframe for timeframe in TIMEFRAMES if timeframe.grain is grain]


def build() -> list[Any]:  # Dagster does not export the type of an asset job
    """The jobs. A job over some assets runs their checks too."""
    ingest = dg.define_asset_job(
        INGEST,
        selection=dg.AssetSelection.assets(TRADES_TABLE),
        description="Read the landing files of the chosen days into trades.",
    )
    rebuilds = [
        dg.define_asset_job(
            name,
            selection=dg.AssetSelection.assets(*(t.table for t in tables(grain))),
            description=f"Make the chosen {grain.value}s of these tables equal to the trades; check them.",
        )
        for grain, name in REBUILD.items()
    ]
    return [ingest, *rebuilds]

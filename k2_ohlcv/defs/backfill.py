"""The size of a backfill's runs. Measuring the size is in `operations.backfill_size`.

Dagster runs several of these runs at once. The pool of each table lets one of them write the table.
"""

from pathlib import Path

import dagster as dg

from k2_ohlcv.domain.run_size import DEFAULT_RUN_DAYS, months_of_days
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.operations.backfill_size import BackfillSize
from k2_ohlcv.settings import Settings


def measurement_folder(settings: Settings) -> Path:
    """The folder of the measurement. Every deployment lets its processes write there."""
    return settings.home / "work"


def candles_backfill_policy(grain: Grain, settings: Settings) -> dg.BackfillPolicy:
    """How many partitions of a candle table one run of a backfill has.

    All tables of a grain have the same policy. Dagster then puts them into the same runs, and one scan of the
    trades serves all tables of a run.
    """
    days = settings.backfill_days
    size = BackfillSize.load(measurement_folder(settings)) if days is None else None
    if size is not None:
        return dg.BackfillPolicy.multi_run(size.partitions(grain))
    days = days or DEFAULT_RUN_DAYS
    return dg.BackfillPolicy.multi_run(days if grain is Grain.DAY else months_of_days(days))

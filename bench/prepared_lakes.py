"""Small and large lakes that are up to date, and are restored after each use.

A measured refresh adds trades and candles. Each use therefore begins and ends with the same tables.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from bench import trades
from bench.lake import Dataset, append_trades, bench_settings, open_lake
from k2_ohlcv.domain.intervals import DAY, day_start, to_micros
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.lake.schemas import CANDLE_SPECS
from k2_ohlcv.lake.watermark import STATE_KEY
from k2_ohlcv.operations.reconcile import refresh

#: A day after every data set. Its trades, moved into the last stored day, are the new trades.
_LATER = trades.FIRST_DAY + timedelta(days=10_000)
_STEP = timedelta(minutes=5)


@contextmanager
def prepare_refresh_lake(data: Dataset) -> Iterator[None]:
    """A data set's lake with all five tables up to date. Changes to the lake are undone afterwards.

    Metadata files never change and the catalog names the current ones, so only the catalog is restored.
    A missing lake is created first. With 240 million trades that takes some minutes.
    """
    if not _saved_catalog(data).exists():
        _create_lake(data)
    _restore_lake(data)
    try:
        yield
    finally:
        _restore_lake(data)


def _saved_catalog(data: Dataset) -> Path:
    """The catalog of the new lake. Its name depends on the specs of the candle tables."""
    tables = [
        (c.name, c.schema, c.partition_spec, sorted(c.properties.items())) for c in CANDLE_SPECS.values()
    ]
    version = repr((tables, STATE_KEY))
    return data.home / f"catalog-{hashlib.sha256(version.encode()).hexdigest()[:8]}.db"


def _create_lake(data: Dataset) -> None:
    """Commit trades and candles day by day, so that the tables have the history of a real lake."""
    shutil.rmtree(data.home, ignore_errors=True)
    lake = open_lake(data.home)
    with open_engine(bench_settings(data.home)) as engine:
        for day in trades.generate_days(data.days):
            append_trades(lake, data.generate_day(day))
            cache = WindowCache(TIMEFRAMES)
            for timeframe in TIMEFRAMES:
                refresh(lake, engine, timeframe, cache=cache)
    for table in (lake.trades(), *map(lake.candles, TIMEFRAMES)):
        # The restored catalog names old metadata files, which must therefore be kept.
        with table.transaction() as transaction:
            transaction.set_properties({"write.metadata.delete-after-commit.enabled": "false"})
    part = _saved_catalog(data).with_suffix(".part")
    shutil.copyfile(data.home / "catalog.db", part)
    part.rename(_saved_catalog(data))


def _restore_lake(data: Dataset) -> None:
    shutil.copyfile(_saved_catalog(data), data.home / "catalog.db")
    newest = _saved_catalog(data).stat().st_mtime
    for path in (data.home / "warehouse").rglob("*"):
        if path.is_file() and path.stat().st_mtime > newest:
            path.unlink()


def five_minute_batches(data: Dataset, count: int) -> Iterator[pa.Table]:
    """Successive batches of five minutes of new trades, in the evening of the last stored day.

    All trades of that day are stored already. Each refresh computes its 1d candle from all of them.
    """
    day = data.generate_day(_LATER)
    moments = day["timestamp"].cast(pa.int64()).to_numpy()
    offset = to_micros(day_start(_LATER) + DAY) - to_micros(data.all_days.end)
    at = day.schema.get_field_index("timestamp")
    evening = day_start(_LATER) + DAY - 24 * _STEP
    for number in range(count):
        edges = [to_micros(evening + (number + i) * _STEP) for i in range(2)]
        first, end = moments.searchsorted(edges).tolist()
        moved = pa.array(moments[first:end] - offset).cast(pa.timestamp("us", "UTC"))
        yield day.slice(first, end - first).set_column(at, "timestamp", moved)

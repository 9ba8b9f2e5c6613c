"""Lakes that hold little and much, to refresh in: up to date, and put back as they were after each use.

What is measured may add trades and candles: each use begins with the very same tables, and ends with them.
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

#: A day that no data set reaches: its trades are those that come new, moved into the last day.
_LATER = trades.FIRST_DAY + timedelta(days=10_000)
_STEP = timedelta(minutes=5)


@contextmanager
def prepare_refresh_lake(data: Dataset) -> Iterator[None]:
    """A data set's lake with all five tables up to date; whatever is done to it then is undone.

    Table metadata is never altered in place: the catalog says which is current, and is what is put back.
    New lakes are made first: of 240 million trades that takes some minutes.
    """
    if not _saved_catalog(data).exists():
        _make_lake(data)
    _restore_lake(data)
    try:
        yield
    finally:
        _restore_lake(data)


def _saved_catalog(data: Dataset) -> Path:
    """The catalog of the lake when it was made, named by what the candle tables were then."""
    tables = [
        (c.name, c.schema, c.partition_spec, sorted(c.properties.items())) for c in CANDLE_SPECS.values()
    ]
    how = repr((tables, STATE_KEY))
    return data.home / f"catalog-{hashlib.sha256(how.encode()).hexdigest()[:8]}.db"


def _make_lake(data: Dataset) -> None:
    """Day after day, trades and then candles: the tables have the history that such a lake has."""
    shutil.rmtree(data.home, ignore_errors=True)
    lake = open_lake(data.home)
    with open_engine(bench_settings(data.home)) as engine:
        for day in trades.generate_days(data.days):
            append_trades(lake, trades.generate_day(day, data.rows))
            cache = WindowCache(TIMEFRAMES)
            for timeframe in TIMEFRAMES:
                refresh(lake, engine, timeframe, cache=cache)
    for table in (lake.trades(), *map(lake.candles, TIMEFRAMES)):
        # What the catalog is put back to must still be there, with all that it names.
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
    """So many lots of five minutes of new trades, one after the other, in the evening of the last stored day.

    That day is stored whole already: its 1d candle is made from all of its trades each time.
    """
    day = trades.generate_day(_LATER, data.rows)
    moments = day["timestamp"].cast(pa.int64()).to_numpy()
    back = to_micros(day_start(_LATER) + DAY) - to_micros(data.all_days.end)
    at = day.schema.get_field_index("timestamp")
    evening = day_start(_LATER) + DAY - 24 * _STEP
    for number in range(count):
        edges = [to_micros(evening + (number + i) * _STEP) for i in range(2)]
        first, end = moments.searchsorted(edges).tolist()
        moved = pa.array(moments[first:end] - back).cast(pa.timestamp("us", "UTC"))
        yield day.slice(first, end - first).set_column(at, "timestamp", moved)

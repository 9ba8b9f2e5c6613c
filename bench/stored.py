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
from bench.lake import Dataset, append_trades, open_lake, settings_of
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.domain.window import DAY, midnight, to_micros
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.lake.schemas import CANDLES
from k2_ohlcv.lake.watermark import STATE
from k2_ohlcv.reconcile import refresh

#: A day that no data set reaches: its trades are those that come new, moved into the last day.
_LATER = trades.FIRST_DAY + timedelta(days=10_000)
_STEP = timedelta(minutes=5)


@contextmanager
def refreshable(data: Dataset) -> Iterator[None]:
    """A data set's lake with all five tables up to date; whatever is done to it then is undone.

    Table metadata is never altered in place: the catalog says which is current, and is what is put back.
    New lakes are made first: of 240 million trades that takes some minutes.
    """
    if not _kept(data).exists():
        _make(data)
    _put_back(data)
    try:
        yield
    finally:
        _put_back(data)


def _kept(data: Dataset) -> Path:
    """The catalog of the lake when it was made, named by what the candle tables were then."""
    tables = [(c.name, c.schema, c.spec, sorted(c.properties.items())) for c in CANDLES.values()]
    how = repr((tables, STATE))
    return data.home / f"catalog-{hashlib.sha256(how.encode()).hexdigest()[:8]}.db"


def _make(data: Dataset) -> None:
    """Day after day, trades and then candles: the tables have the history that such a lake has."""
    shutil.rmtree(data.home, ignore_errors=True)
    lake = open_lake(data.home)
    with open_engine(settings_of(data.home)) as engine:
        for day in trades.days(data.days):
            append_trades(lake, trades.day_of_trades(day, data.rows))
            cache = WindowCache(TIMEFRAMES)
            for timeframe in TIMEFRAMES:
                refresh(lake, engine, timeframe, cache=cache)
    for table in (lake.trades(), *map(lake.candles, TIMEFRAMES)):
        # What the catalog is put back to must still be there, with all that it names.
        with table.transaction() as transaction:
            transaction.set_properties({"write.metadata.delete-after-commit.enabled": "false"})
    part = _kept(data).with_suffix(".part")
    shutil.copyfile(data.home / "catalog.db", part)
    part.rename(_kept(data))


def _put_back(data: Dataset) -> None:
    shutil.copyfile(_kept(data), data.home / "catalog.db")
    newest = _kept(data).stat().st_mtime
    for path in (data.home / "warehouse").rglob("*"):
        if path.is_file() and path.stat().st_mtime > newest:
            path.unlink()


def five_minutes(data: Dataset, count: int) -> Iterator[pa.Table]:
    """So many lots of five minutes of new trades, one after the other, in the evening of the last stored day.

    That day is stored whole already: its 1d candle is made from all of its trades each time.
    """
    day = trades.day_of_trades(_LATER, data.rows)
    moments = day["timestamp"].cast(pa.int64()).to_numpy()
    back = to_micros(midnight(_LATER) + DAY) - to_micros(data.all_days.end)
    at = day.schema.get_field_index("timestamp")
    evening = midnight(_LATER) + DAY - 24 * _STEP
    for number in range(count):
        edges = [to_micros(evening + (number + i) * _STEP) for i in range(2)]
        first, end = moments.searchsorted(edges).tolist()
        moved = pa.array(moments[first:end] - back).cast(pa.timestamp("us", "UTC"))
        yield day.slice(first, end - first).set_column(at, "timestamp", moved)

"""Small and large lakes that are up to date, and are restored after each use.

A measured refresh adds trades and candles. Each use therefore begins and ends with the same tables.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench import trades
from bench.lake import Dataset, append_trades, bench_settings, open_lake
from k2_ohlcv.domain.intervals import DAY, EPOCH, day_start, to_micros
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.lake.schemas import CANDLE_SPECS
from k2_ohlcv.lake.watermark import STATE_KEY
from k2_ohlcv.operations.reconcile import refresh

#: A day after every data set. Its trades, moved into the last stored day, are the new trades. Ids count on
#: from day to day. After ten times as many days the largest market would have longer ids than real ones.
_LATER = trades.FIRST_DAY + timedelta(days=1_000)
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


def late_trades(data: Dataset, count: int, seed: int) -> pa.Table:
    """Trades of the first day that are stored already, with new ids."""
    rows = data.generate_day(trades.FIRST_DAY)
    chosen = np.sort(np.random.default_rng(seed).choice(rows.num_rows, count, replace=False))
    late = rows.take(pa.array(chosen))
    # Ids above those of every stored trade.
    ids = pa.array(np.arange(count) + 9_000_000_000 + seed * 1_000_000).cast(pa.string())
    return late.set_column(late.schema.get_field_index("trade_id"), "trade_id", ids)


def years_lake(root: Path, rows: int, days: int) -> Path:
    """A lake of three quiet markets over many days, all in one snapshot, without candles."""
    home = root / f"years-{rows}x{days}"
    done = home / "complete"
    if not done.exists():
        shutil.rmtree(home, ignore_errors=True)
        append_trades(open_lake(home), _years_of_trades(rows, days))
        done.touch()
    return home


def _years_of_trades(rows: int, days: int) -> pa.Table:
    random = np.random.default_rng(1)
    first = to_micros(day_start(trades.FIRST_DAY)) - days * to_micros(EPOCH + DAY)
    at = np.sort(random.integers(first, first + days * to_micros(EPOCH + DAY), rows))
    symbols = pa.array([market.symbol for market in trades.MARKETS[:3]])
    return pa.table(
        {
            "exchange": pa.repeat(trades.EXCHANGE, rows),
            "symbol": symbols.take(pa.array(random.integers(0, 3, rows))),
            "trade_id": pa.array(np.arange(rows)).cast(pa.string()),
            "timestamp": pa.array(at).cast(pa.timestamp("us", "UTC")),
            "price": trades.to_decimals(random.integers(10**8, 10**12, rows), 18),
            "quantity": trades.to_decimals(random.integers(10**5, 10**10, rows), 19),
        }
    )

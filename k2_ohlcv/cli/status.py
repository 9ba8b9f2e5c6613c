"""`k2-ohlcv status`: the size and lag of each table, from Iceberg's metadata alone."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from k2_ohlcv.cli.console import Console, table
from k2_ohlcv.cli.light_imports import import_pyarrow
from k2_ohlcv.domain.timeframe import TIMEFRAMES

if TYPE_CHECKING:
    from k2_ohlcv.lake.metadata.table_stats import TableStatus


def show_status(console: Console) -> None:
    """Show the numbers of every table."""
    import_pyarrow()
    from k2_ohlcv.lake.catalog import Lake
    from k2_ohlcv.lake.metadata.table_stats import candles_status, trades_status

    lake = Lake.open(console.settings)
    trades = trades_status(lake)
    candles = [(timeframe, candles_status(lake, timeframe)) for timeframe in TIMEFRAMES]
    console.print_json(
        {
            "trades": _as_json(trades),
            "tables": [{"timeframe": timeframe.name, **_as_json(status)} for timeframe, status in candles],
        }
    )
    result = table(
        "table", "rows#", "partitions#", "first window", "last window", "trades head", "watermark", "lag#"
    )
    for timeframe, status in candles:
        result.add_row(
            timeframe.table,
            f"{status.rows:,}",
            f"{status.partitions:,}",
            *(_text(value) for value in (status.first, status.last, status.trades_head, status.watermark)),
            "-" if status.lag is None else str(timedelta(seconds=round(status.lag.total_seconds()))),
        )
    notes = [
        f"{timeframe.table}: {len(status.open)} intervals are open, {status.refused} windows are refused"
        for timeframe, status in candles
        if status.open
    ]
    if trades.snapshot is None and any(status.snapshot is not None for _, status in candles):
        notes.append(f"{trades.table} is missing or has never had trades: the lag of candles is unknown")
    console.print_text(*notes)
    console.print_text(f"trades: {trades.rows:,}, {_text(trades.first)} to {_text(trades.last)}", result)


def _as_json(status: "TableStatus") -> dict[str, object]:
    """A status as JSON: times in ISO 8601, the lag in seconds."""
    numbers = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(status).items()
    }
    lag = numbers.pop("lag")
    numbers["open"] = [str(interval) for interval in status.open]
    return {**numbers, "lag_seconds": lag.total_seconds() if isinstance(lag, timedelta) else None}


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)

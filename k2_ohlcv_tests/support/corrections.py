"""Trades of two markets, and calls that delete and replace some of them."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.replace_trades import replace_trades
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

#: The time of the first trade.
NOON = datetime(2024, 8, 8, 12, tzinfo=UTC)
MARKET = ("E", "S")
_HEADER = "timestamp,price,quantity,trade_id,exchange,symbol\n"
WriteCsv = Callable[..., Path]


def trade(number: int, symbol: str = "S", **values: Any) -> Trade:
    """The trade of one hour after noon."""
    trade = make_trade(number, NOON + timedelta(hours=number), number + 1, 1, market=("E", symbol))
    return replace(trade, **values)


TWO_MARKETS = [trade(n, symbol) for n in range(40) for symbol in ("S", "T")]


def to_csv(trades: Iterable[Trade]) -> str:
    return _HEADER + "".join(
        f"{t.timestamp.isoformat()},{t.price},{t.quantity},{t.trade_id},{t.exchange},{t.symbol}\n"
        for t in trades
    )


def stored_trades(lake: Lake) -> list[Trade]:
    return sort_trades(lakes.all_trades(lake))


def _trade_order(trade: Trade) -> tuple[str, str, datetime, int, str]:
    return trade.exchange, trade.symbol, trade.timestamp, len(trade.trade_id), trade.trade_id


def sort_trades(trades: Iterable[Trade]) -> list[Trade]:
    """Trades by market, time and id."""
    return sorted(trades, key=_trade_order)


def rejected_ids(lake: Lake) -> list[tuple[str, str]]:
    """Symbol and trade id of each rejected row."""
    rows = lake.rejected().scan().to_arrow().to_pylist()
    return sorted((row["symbol"], row["raw"].rpartition(",")[2]) for row in rows)


def count_snapshots(lake: Lake) -> int:
    return len(lake.trades().snapshots())


def read_ingested_at(lake: Lake) -> dict[tuple[str, str], datetime]:
    """When each trade was ingested, by symbol and id."""
    rows = lake.trades().scan().to_arrow().to_pylist()
    return {(row["symbol"], row["trade_id"]): row["ingested_at"] for row in rows}


def assert_unchanged(lake: Lake) -> None:
    """The lake has the trades of two markets, one snapshot and no rejected row."""
    assert stored_trades(lake) == sort_trades(TWO_MARKETS)
    assert (count_snapshots(lake), rejected_ids(lake)) == (1, [])


def run_replace(lake: Lake, path: Path, tmp_path: Path, **options: Any) -> Any:
    """Replace trades by a file, applied unless the options say otherwise."""
    arguments: dict[str, Any] = {"workspace": tmp_path / "work", "apply": True} | options
    return replace_trades(lake, path, **arguments)

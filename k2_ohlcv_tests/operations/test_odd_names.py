"""Symbols, exchanges and ids are data: odd ones travel through every operation without harm."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.delete_trades import Selection, delete_trades
from k2_ohlcv.operations.ingest import IngestReport, ingest
from k2_ohlcv.operations.replace_trades import replace_trades
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import DAILY, MINUTE
from k2_ohlcv_tests.support.corrections import sort_trades, stored_trades
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade

NAMES = (
    "../../x'; drop table gold_crypto_trades--",
    '"; DROP TABLE "market_data"."gold_ohlcv_1m"; --',
    "' OR '1'='1",
    "100%_%s%%d%2F..%00",
    "a\\b\\'c\\\"",
    "..",
    "/etc/passwd",
    "{}${HOME}$(id)`id`",
    "比特币/₿ \N{COMBINING ACUTE ACCENT}\U0001f680",
    "NULL",
    "x, y [red]z[/red] #k?=1&",
)
#: Names with control characters are rejected, with the reason.
REJECTED = ("line\nfeed", "tab\tstop", "esc\x1b[31m", "nul\x00")
MARKETS = [(name, "S") for name in NAMES] + [("E", name) for name in NAMES] + [(name, name) for name in NAMES]


def trade(number: int, market: tuple[str, str], trade_id: str | None = None) -> Trade:
    at = AT + timedelta(seconds=20 * number)
    return make_trade(trade_id or str(number), at, number % 7 + 1, "0.5", market=market)


TRADES = [trade(3 * i + n, market, f"{market[1]}-{n}") for i, market in enumerate(MARKETS) for n in range(3)]


def to_arrow(trades: list[Trade]) -> pa.Table:
    rows = [
        {**vars(t), "timestamp": t.timestamp.isoformat(), "price": str(t.price), "quantity": str(t.quantity)}
        for t in trades
    ]
    return pa.Table.from_pylist(rows)


def write_file(folder: Path, trades: list[Trade], kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"trades.{kind}"
    if kind == "parquet":
        pq.write_table(to_arrow(trades), path)
    else:
        pa_csv.write_csv(to_arrow(trades), path)
    return path


def add(lake: Lake, folder: Path, trades: list[Trade], kind: str, **market: Any) -> IngestReport:
    path = write_file(folder, trades, kind)
    return ingest(lake, [path], workspace=folder / "work", **market)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_odd_names_travel_through_a_file(lake: Lake, tmp_path: Path, kind: str) -> None:
    """Every trade is stored as written. The same file again adds nothing."""
    report = add(lake, tmp_path, TRADES, kind)
    assert (report.added, report.rejected) == (len(TRADES), 0)
    assert stored_trades(lake) == sort_trades(TRADES)
    again = add(lake, tmp_path, TRADES, kind)
    assert (again.added, again.duplicates) == (0, report.added)


@pytest.mark.parametrize("name", REJECTED)
def test_names_with_control_characters_are_rejected(lake: Lake, tmp_path: Path, name: str) -> None:
    report = add(lake, tmp_path, [trade(1, (name, "S")), trade(2, ("E", "S"))], "parquet")
    assert (report.added, report.rejected) == (1, 1)
    (row,) = lake.rejected().scan().to_arrow().to_pylist()
    assert "control characters" in row["reason"]
    with pytest.raises(UsageError, match="control characters"):
        add(lake, tmp_path, [trade(3, ("E", "S"))], "parquet", exchange="E", symbol=name)


def test_odd_names_travel_through_options(lake: Lake, tmp_path: Path) -> None:
    """A name of an option is only a name, and no path or pattern."""
    for number, name in enumerate(NAMES):
        at = (AT + timedelta(seconds=number)).isoformat()
        path = tmp_path / f"{number}.csv"
        path.write_text(f"timestamp,price,quantity,trade_id\n{at},1,1,{number}\n")
        ingest(lake, [path], exchange=name, symbol=name, workspace=tmp_path / "work")
    assert {(t.exchange, t.symbol) for t in lakes.all_trades(lake)} == {(name, name) for name in NAMES}


def test_odd_names_travel_through_candles_checks_and_corrections(sail: EngineLake, tmp_path: Path) -> None:
    """Each market has its own candles. Deleting one market changes no other one."""
    home = set(tmp_path.parent.iterdir())
    add(sail.lake, tmp_path, TRADES, "parquet")
    sail.refresh_tables(MINUTE, DAILY)
    sail.assert_equal_to_trades(TRADES, MINUTE, DAILY)
    findings = sail.validate(MINUTE, [Interval(AT, AT + timedelta(days=1))])
    assert {f.check for f in findings if f.failures} <= {"freshness", "gaps"}
    left = list(TRADES)
    for market in (MARKETS[0], MARKETS[14], MARKETS[-4]):
        gone = [t for t in left if (t.exchange, t.symbol) == market]
        selection = Selection(market, None, (gone[0].trade_id,))
        assert delete_trades(sail.lake, selection, reason=market[0], apply=True).removed == 1
        left.remove(gone[0])
    for market in (MARKETS[1], MARKETS[13], MARKETS[-3]):
        old = [t for t in left if (t.exchange, t.symbol) == market]
        new = [old[0], trade(999, market, "'; drop --"), old[-1]]
        new[1] = make_trade("'; drop --", old[1].timestamp, 5, 1, market=market)
        report = replace_trades(
            sail.lake, write_file(tmp_path, new, "parquet"), workspace=tmp_path / "work", apply=True
        )
        assert (report.removed, report.added) == (1, 1)
        left = [t for t in left if t != old[1]] + [new[1]]
    assert stored_trades(sail.lake) == sort_trades(left)
    sail.refresh_tables(MINUTE, DAILY)
    sail.assert_equal_to_trades(left, MINUTE, DAILY)
    assert set(tmp_path.parent.iterdir()) == home, "no file lies outside"
    names = [path for path in lakes.files_of(sail.lake.trades()) if "drop" in path or "passwd" in path]
    assert names == []

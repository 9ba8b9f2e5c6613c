"""Landing files of every format, their markets, and files that cannot be read."""

import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.sources.reader import read_file
from k2_ohlcv_tests.support.landed_files import read_rows

Write = Callable[[str, str | bytes], Path]
SPOT = "7,61837.63000000,0.02000000,1236.75260000,1723161255342,True,True"
FUTURES = "7,61837.63,0.020,1236.75260,1723161255342,true"
FUTURES_AGGREGATE = "7,61837.63,0.020,11,12,1723161255342,true"
SPOT_AGGREGATE = "7,61837.63000000,0.02000000,11,12,1723161255342,True,True"
COIN = "7,61837.6,20,0.03234278,1723161255342,true"
MOMENT = datetime(2024, 8, 8, 23, 54, 15, 342000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "row", "quantity"),
    [
        ("", SPOT, "0.02"),
        ("", SPOT.replace("1723161255342", "1723161255342000"), "0.02"),
        ("id,price,qty,quoteQty,time,isBuyerMaker,isBestMatch\n", SPOT, "0.02"),
        ("", FUTURES, "0.02"),
        ("id,price,qty,quote_qty,time,is_buyer_maker\n", FUTURES, "0.02"),
        ("", COIN, "20"),
        ("id,price,qty,base_qty,time,is_buyer_maker\n", COIN, "20"),
        ("", FUTURES_AGGREGATE, "0.02"),
        (
            "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n",
            FUTURES_AGGREGATE,
            "0.02",
        ),
        ("", SPOT_AGGREGATE, "0.02"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.zip", "a.dat"])
def test_binance_dumps(land: Write, header: str, row: str, quantity: str, name: str) -> None:
    """Spot, USD-M and COIN-M, trades and aggTrades, with and without header, in every compression."""
    ((trade,), rejected) = read_rows(land(name, header + row + "\n"))
    assert rejected == []
    assert (trade["trade_id"], trade["timestamp"], trade["quantity"]) == ("7", MOMENT, Decimal(quantity))
    assert trade["line"] == (2 if header else 1)


@pytest.mark.parametrize("row", ["1723161255,61837.6,0.02", "1723161255.342,61837.6,0.02"])
def test_kraken_dumps(land: Write, row: str) -> None:
    """The file name gives the pair. Only `--format kraken` gives the exchange."""
    path = land("XBTUSD.csv", f"{row}\n{row}\n")
    batch = next(read_file(path, format="kraken"))
    assert batch.trades["trade_id"].null_count == 2
    assert batch.trades.select(["exchange", "symbol"]).to_pylist()[0] == {
        "exchange": "KRAKEN",
        "symbol": "XBTUSD",
    }
    with pytest.raises(UsageError, match="--exchange"):
        next(read_file(path))
    assert next(read_file(path, exchange="OTHER")).trades["exchange"][0].as_py() == "OTHER"


@pytest.mark.parametrize("quantity", ["quantity", "amount", "qty", "size"])
def test_a_plain_table_is_read_by_the_names_of_its_columns(land: Write, quantity: str) -> None:
    """Columns may be in any order and in any case. Other columns are ignored."""
    text = (
        f'x,Symbol,{quantity}, PRICE ,id,"timestamp",exchange\n,BTC,1.5,2.5,abc,2024-08-08T23:54:15.342Z,EX\n'
    )
    ((trade,), _) = read_rows(land("t.csv", text), exchange=None, symbol=None)
    assert trade == {
        "exchange": "EX",
        "symbol": "BTC",
        "trade_id": "abc",
        "timestamp": MOMENT,
        "price": Decimal("2.5"),
        "quantity": Decimal("1.5"),
        "line": 2,
    }


@pytest.mark.parametrize(
    ("path", "options", "market"),
    [
        ("landing/PX/PS/t.csv", {}, ("CX", "CS")),
        ("landing/PX/PS/deep/t.csv", {"exchange": "OX"}, ("OX", "CS")),
        ("landing/PX/PS/bare.csv", {}, ("PX", "PS")),
        ("landing/PX/PS/2024/bare.csv", {"symbol": "OS"}, ("PX", "OS")),
    ],
)
def test_the_market_is_from_options_columns_or_path(
    land: Write, path: str, options: Any, market: tuple[str, str]
) -> None:
    """Options come before columns, and columns before the path."""
    bare = "timestamp,price,amount\n1723161255,1,1\n"
    full = "timestamp,price,amount,exchange,symbol\n1723161255,1,1,CX,CS\n"
    ((trade,), _) = read_rows(
        land(path, bare if "bare" in path else full), **({"exchange": None, "symbol": None} | options)
    )
    assert (trade["exchange"], trade["symbol"]) == market


def test_the_landing_folder_may_have_any_name(land: Write, tmp_path: Path) -> None:
    """The path gives the market if the caller names the folder."""
    path = land("in/PX/PS/t.csv", "timestamp,price,amount\n1723161255,1,1\n")
    with pytest.raises(UsageError, match="exchange"):
        read_rows(path, exchange=None)
    assert read_rows(path, exchange=None, symbol=None, landing=tmp_path / "in")[0][0]["symbol"] == "PS"


def cut(path: Path, keep: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def write_unreadable_files(land: Write, tmp_path: Path) -> dict[Path, str]:
    """Write files that cannot be read as a whole. Returns a part of each error message."""
    text = "timestamp,price,amount\n" + "".join(f"{1723161255 + i},{i + 1}.37,1\n" for i in range(5000))
    several = tmp_path / "several.zip"
    with zipfile.ZipFile(several, "w") as archive:
        archive.writestr("a.csv", text)
        archive.writestr("b.csv", text)
    with zipfile.ZipFile(tmp_path / "none.zip", "w"):
        pass
    damaged = land("damaged.zip", text)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    table = pa.table({"timestamp": [1723161255] * 3000, "price": [1.5] * 3000, "size": [1.5] * 3000})
    pq.write_table(table, tmp_path / "cut.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    pq.write_table(table.drop_columns("size"), tmp_path / "columns.parquet")
    pq.write_table(table.set_column(1, "price", pa.array([True] * 3000)), tmp_path / "types.parquet")
    return {
        cut(land("cut.zip", text), 0.5): "to its end",
        damaged: "to its end",
        cut(land("cut.csv.gz", text), 0.5): "to its end",
        several: "exactly one file, this one contains a.csv, b.csv",
        tmp_path / "none.zip": "contains nothing",
        land("empty.csv", ""): "empty",
        land("empty.csv.gz", ""): "no rows",
        land("blank.csv", "\n \n"): "no rows",
        land("header.csv", "timestamp,price,amount\n"): "a header and no rows",
        land("candles.csv", "open_time,open,close\n1723161255,1,2\n"): "columns open_time, open, close",
        land("numbers.csv", "1,2,3,4\n"): "without a header",
        land("twice.csv", "timestamp,price,amount,price\n1,2,3,4\n"): "price appears 2 times",
        land("utf16.csv", text.encode("utf-16")): "UTF-16",
        land("nested.zip", damaged.read_bytes()): "another zip file inside",
        land("long.csv", "1" * 100): "without a header",
        tmp_path / "missing.csv": "No such file",
        tmp_path: "cannot be opened",
        cut(tmp_path / "cut.parquet", 0.5): "cannot be read",
        tmp_path / "empty.parquet": "no rows",
        tmp_path / "columns.parquet": "timestamp, price and quantity",
        tmp_path / "types.parquet": "type bool",
    }


def test_a_file_that_cannot_be_read_is_an_error_with_the_reason(land: Write, tmp_path: Path) -> None:
    """The error names the file and the reason."""
    for path, reason in write_unreadable_files(land, tmp_path).items():
        with pytest.raises(BadFileError, match=reason) as caught:
            read_rows(path)
        assert str(path) in str(caught.value)


def test_a_file_of_another_format_than_the_requested_one_is_an_error(land: Write) -> None:
    """An unknown format is an error too."""
    path = land("t.csv", SPOT + "\n")
    assert read_rows(path, format="binance")[0]
    for name in ("kraken", "table"):
        with pytest.raises(BadFileError, match=f"the format {name}"):
            read_rows(path, format=name)
    with pytest.raises(UsageError, match="auto, binance, kraken, table"):
        read_rows(path, format="csv")


def test_parquet_columns_may_have_other_types(tmp_path: Path) -> None:
    """Doubles are read by their shortest text, other decimals exactly. Lines are row numbers."""
    path = tmp_path / "t.parquet"
    table = {
        "timestamp": pa.array([MOMENT, MOMENT, MOMENT, None], pa.timestamp("ns", "Europe/Berlin")),
        "price": [0.1, 1e-8, 0.30000000000000004, 1.0],
        "qty": pa.array([Decimal("1.50"), Decimal("2"), Decimal("3"), Decimal("4")], pa.decimal128(30, 2)),
        "trade_id": [1, 2, 3, 4],
        "symbol": pa.array(["A", "B", "A", "A"]).dictionary_encode(),
    }
    pq.write_table(pa.table(table), path)
    trades, rejected = read_rows(path, symbol=None)
    assert [(t["symbol"], t["trade_id"], t["price"], t["quantity"], t["line"]) for t in trades] == [
        ("A", "1", Decimal("0.1"), Decimal("1.5"), 1),
        ("B", "2", Decimal("1e-8"), Decimal(2), 2),
    ]
    assert [(r["line"], r["reason"]) for r in rejected] == [
        (3, "price has more than 8 decimals"),
        (4, "timestamp is not a time"),
    ]
    assert trades[0]["timestamp"] == MOMENT


def test_files_of_exchanges_are_read_to_the_last_row(shared_data: Path) -> None:
    """No row is rejected, except 18 rows of Bitstamp without an amount."""
    counts = {p.relative_to(shared_data).as_posix(): read_rows(p) for p in shared_data.rglob("*.zip")}
    assert {name: len(rejected) for name, (_, rejected) in counts.items()} == dict.fromkeys(counts, 0)
    assert len(counts["binance-trades-2024/usdm/BTCUSDT-trades-2024-08-08.zip"][0]) == 21_313
    trades, rejected = read_rows(shared_data / "bitstamp-btcusd-2013" / "trades.csv.gz")
    assert (len(trades), len(rejected)) == (99_982, 18)
    assert {r["reason"] for r in rejected} == {"quantity is not positive"}
    with pytest.raises(BadFileError, match="open_time"):
        read_rows(shared_data / "binance-trades-2024" / "usdm" / "BTCUSDT-1m-klines.csv")

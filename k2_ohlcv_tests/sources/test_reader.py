"""Files of every format, wrapped and broken in every way."""

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
from k2_ohlcv.sources import line_blocks
from k2_ohlcv.sources.reader import read_file

Write = Callable[..., Path]
SPOT = "7,61837.63000000,0.02000000,1236.75260000,1723161255342,True,True"
FUTURES = "7,61837.63,0.020,1236.75260,1723161255342,true"
FUTURES_AGGREGATE = "7,61837.63,0.020,11,12,1723161255342,true"
SPOT_AGGREGATE = "7,61837.63000000,0.02000000,11,12,1723161255342,True,True"
COIN = "7,61837.6,20,0.03234278,1723161255342,true"
MOMENT = datetime(2024, 8, 8, 23, 54, 15, 342000, tzinfo=UTC)


def everything(path: Path, **options: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    options = {"exchange": "E", "symbol": "S"} | options
    batches = list(read_file(path, **options))
    trades = pa.concat_tables([b.trades for b in batches]).to_pylist()
    return trades, pa.concat_tables([b.rejected for b in batches]).to_pylist()


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
    """Spot, USD-M and COIN-M, trades and aggTrades, with and without header, in every wrapping."""
    ((trade,), rejected) = everything(land(name, header + row + "\n"))
    assert rejected == []
    assert (trade["trade_id"], trade["timestamp"], trade["quantity"]) == ("7", MOMENT, Decimal(quantity))
    assert trade["line"] == (2 if header else 1)


@pytest.mark.parametrize("row", ["1723161255,61837.6,0.02", "1723161255.342,61837.6,0.02"])
def test_kraken_dumps(land: Write, row: str) -> None:
    """The name gives the pair; the exchange only where the format is asked for."""
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
    """In any order, with columns that are not needed, in any case."""
    text = (
        f'x,Symbol,{quantity}, PRICE ,id,"timestamp",exchange\n,BTC,1.5,2.5,abc,2024-08-08T23:54:15.342Z,EX\n'
    )
    ((trade,), _) = everything(land("t.csv", text), exchange=None, symbol=None)
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
def test_where_the_market_comes_from(land: Write, path: str, options: Any, market: tuple[str, str]) -> None:
    """Options before columns before the path."""
    bare = "timestamp,price,amount\n1723161255,1,1\n"
    full = "timestamp,price,amount,exchange,symbol\n1723161255,1,1,CX,CS\n"
    ((trade,), _) = everything(
        land(path, bare if "bare" in path else full), **({"exchange": None, "symbol": None} | options)
    )
    assert (trade["exchange"], trade["symbol"]) == market


def test_a_landing_folder_of_another_name(land: Write, tmp_path: Path) -> None:
    """The folder may be called anything where the caller names it."""
    path = land("in/PX/PS/t.csv", "timestamp,price,amount\n1723161255,1,1\n")
    with pytest.raises(UsageError, match="exchange"):
        everything(path, exchange=None)
    assert everything(path, exchange=None, symbol=None, landing=tmp_path / "in")[0][0]["symbol"] == "PS"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_keep_their_numbers(
    land: Write, monkeypatch: pytest.MonkeyPatch, end: str, last: bool, mark: str
) -> None:
    """After a header, blank and malformed lines, whatever the line ends; in blocks of any size."""
    text = [
        "timestamp,price,amount",
        "",
        "1723161255,1,1",
        "1723161255,1",
        " ",
        "1723161255,2,1",
        "1,2,3,4",
        "x,y,z",
    ]
    text += ['"1723161255","3","1"', '1723161255,"4,1', "1723161255,5,1"]
    path = land("t.csv", mark + end.join(text) + (end if last else ""))
    for size in (30, 64, 1 << 20):
        monkeypatch.setattr(line_blocks, "MAX_BLOCK_BYTES", size)
        trades, rejected = everything(path)
        lines = [(3, 1), (6, 2), (9, 3), (11, 5)]
        assert [(t["line"], int(t["price"])) for t in trades] == (lines if last else lines[:-1])
        assert [(r["line"], r["raw"]) for r in rejected] == [
            (4, "1723161255,1"),
            (7, "1,2,3,4"),
            (8, "x,y,z"),
            (10, '1723161255,"4,1'),
            *([] if last else [(11, "1723161255,5,1")]),
        ]
        assert last or rejected[-1]["reason"] == "unterminated"
        assert rejected[0]["reason"] == "has 2 fields, not 3"
        assert rejected[2]["reason"] == (
            "timestamp is not a time; price is not a number; quantity is not a number"
        )


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.zip"])
@pytest.mark.parametrize(
    ("text", "trades", "unterminated"),
    [
        ("timestamp,price,amount\n1723161255,1,1\n1723161256,1,12", [2, 3], 3),
        ("timestamp,price,amount\n1723161255,1,12", [2], 2),
        ("1723161255,1,1\n1723161256,1,12", [1, 2], 2),
        ("1723161256,1,12", [1], 1),
        ("1723161255,1,1\r\n1723161256,1,12\r", [1, 2], 2),
        ("1723161255,1,1\n1723161256,1,12\n", [1, 2], None),
        ("1723161255,1,1\n \t", [1], None),
    ],
)
def test_a_last_line_without_an_end(
    land: Write, name: str, text: str, trades: list[int], unterminated: int | None
) -> None:
    """In plain text it may be cut, also where it is the only one; behind a checksum it is whole."""
    path = land(name, text)
    if unterminated and path.suffix == ".csv":
        trades = trades[:-1]
    else:
        unterminated = None
    batches = list(read_file(path, exchange="E", symbol="S"))
    assert [line for b in batches for line in b.trades["line"].to_pylist()] == trades
    (*_, last) = batches
    assert last.unterminated_line == unterminated
    if unterminated:
        raw = text.splitlines()[-1]
        assert last.rejected.to_pylist()[-1]["reason"] == "unterminated"
        assert last.rejected.to_pylist()[-1]["raw"] == raw


def test_a_header_without_an_end_is_no_row(land: Write) -> None:
    """Nothing is known of what may follow."""
    with pytest.raises(BadFileError, match="a header and no rows"):
        everything(land("t.csv", "timestamp,price,amount"))


def test_a_broken_first_row_is_not_taken_for_a_header(land: Write) -> None:
    """A row with a number in it is data."""
    trades, rejected = everything(land("t.csv", f"x{SPOT}\n{SPOT}\n{SPOT}\n".replace("x7", "seven")))
    assert [t["line"] for t in trades] == [1, 2, 3]
    assert rejected == []
    trades, rejected = everything(land("t.csv", f"seven,1,oops\n{SPOT}\n{SPOT}\n"))
    assert ([t["line"] for t in trades], [r["line"] for r in rejected]) == ([2, 3], [1])


def test_bytes_that_are_not_text_cost_only_their_row(land: Write) -> None:
    """The raw text shows where they were."""
    trades, rejected = everything(
        land("t.csv", b"timestamp,price,amount\n1723161255,\xff1,1\n1723161255,1,1\n")
    )
    assert [t["line"] for t in trades] == [3]
    assert rejected[0]["raw"] == "1723161255,\ufffd1,1"


def cut(path: Path, keep: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def test_files_that_cannot_be_read_as_a_whole(land: Write, tmp_path: Path) -> None:
    """Each says what is wrong."""
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
    bad = {
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
    for path, reason in bad.items():
        with pytest.raises(BadFileError, match=reason) as caught:
            everything(path)
        assert str(path) in str(caught.value)


def test_a_format_may_be_demanded(land: Write) -> None:
    """A file of another one is an error, and so is a format that there is not."""
    path = land("t.csv", SPOT + "\n")
    assert everything(path, format="binance")[0]
    for name in ("kraken", "table"):
        with pytest.raises(BadFileError, match=f"the format {name}"):
            everything(path, format=name)
    with pytest.raises(UsageError, match="auto, binance, kraken, table"):
        everything(path, format="csv")


def test_parquet_of_foreign_types(tmp_path: Path) -> None:
    """Doubles through their shortest text, decimals of another scale exactly; lines are row numbers."""
    path = tmp_path / "t.parquet"
    table = {
        "timestamp": pa.array([MOMENT, MOMENT, MOMENT, None], pa.timestamp("ns", "Europe/Berlin")),
        "price": [0.1, 1e-8, 0.30000000000000004, 1.0],
        "qty": pa.array([Decimal("1.50"), Decimal("2"), Decimal("3"), Decimal("4")], pa.decimal128(30, 2)),
        "trade_id": [1, 2, 3, 4],
        "symbol": pa.array(["A", "B", "A", "A"]).dictionary_encode(),
    }
    pq.write_table(pa.table(table), path)
    trades, rejected = everything(path, symbol=None)
    assert [(t["symbol"], t["trade_id"], t["price"], t["quantity"], t["line"]) for t in trades] == [
        ("A", "1", Decimal("0.1"), Decimal("1.5"), 1),
        ("B", "2", Decimal("1e-8"), Decimal(2), 2),
    ]
    assert [(r["line"], r["reason"]) for r in rejected] == [
        (3, "price has more than 8 decimals"),
        (4, "timestamp is not a time"),
    ]
    assert trades[0]["timestamp"] == MOMENT


def test_the_real_files_are_read_to_the_last_row(real_data: Path) -> None:
    """Each of them, without a row refused but Bitstamp's 18 of no amount."""
    counts = {p.relative_to(real_data).as_posix(): everything(p) for p in real_data.rglob("*.zip")}
    assert {name: len(rejected) for name, (_, rejected) in counts.items()} == dict.fromkeys(counts, 0)
    assert len(counts["binance-trades-2024/usdm/BTCUSDT-trades-2024-08-08.zip"][0]) == 21_313
    trades, rejected = everything(real_data / "bitstamp-btcusd-2013" / "trades.csv.gz")
    assert (len(trades), len(rejected)) == (99_982, 18)
    assert {r["reason"] for r in rejected} == {"quantity is not positive"}
    with pytest.raises(BadFileError, match="open_time"):
        everything(real_data / "binance-trades-2024" / "usdm" / "BTCUSDT-1m-klines.csv")

"""`k2-ohlcv ingest FOLDER`: which files it reads, where their markets are from, and what it leaves out."""

import gzip
import json
import zipfile
from pathlib import Path

import pytest

from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.command_line import call

_MS = 1_714_521_600_000  # 2024-05-01 in UTC


def write_archive(path: Path, *rows: str) -> Path:
    """Write a zip of one CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}.csv", "\n".join([*rows, ""]))
    return path


def spot(number: int) -> str:
    return f"{number},10.5,2,21,{_MS + number},true,true"


def futures(number: int) -> str:
    return f"{number},10.5,2,21,{_MS + number},true"


def agg(number: int) -> str:
    return f"{number},10.5,2,{number},{number},{_MS + number},true,true"


def stored_markets(home: Path) -> dict[tuple[str, str], int]:
    rows = Lake.open(lakes.lake_settings(home)).trades().scan().to_arrow().to_pylist()
    markets: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row["exchange"], row["symbol"])
        markets[key] = markets.get(key, 0) + 1
    return markets


def test_a_folder_of_archives_needs_no_options(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of spot archives, days and months, at any depth; and paths EXCHANGE/SYMBOL/file."""
    folder = tmp_path / "in"
    write_archive(folder / "BTCUSDT-trades-2024-05-01.zip", spot(1), spot(2))
    write_archive(folder / "spot" / "monthly" / "ETHUSDT-trades-2024-05.zip", spot(1))
    write_archive(folder / "a" / "b" / "c" / "BNBUSDT-aggTrades-2024-05-01.zip", agg(1))
    write_archive(folder / "BINANCE_UM" / "BTCUSDT" / "BTCUSDT-trades-2024-05-01.zip", futures(1))
    table = folder / "COINBASE" / "BTC-USD" / "may.csv"
    table.parent.mkdir(parents=True)
    table.write_text("trade_id,timestamp,price,quantity\n1,2024-05-01T00:00:00Z,1,1\n")
    (folder / ".hidden.csv").write_text("nothing")
    (folder / "BTCUSDT-trades-2024-05-01.zip.CHECKSUM").write_text("0000  BTCUSDT-trades-2024-05-01.zip\n")
    code, out, err = call(capsys, "ingest", str(folder), "--json")
    assert code == 0, err
    assert json.loads(out)["skipped"] == {}
    assert "1 checksum files were left out" in err
    assert stored_markets(home) == {
        ("BINANCE", "BTCUSDT"): 2,
        ("BINANCE", "ETHUSDT"): 1,
        ("BINANCE", "BNBUSDT"): 1,
        ("BINANCE_UM", "BTCUSDT"): 1,
        ("COINBASE", "BTC-USD"): 1,
    }


def test_files_that_cannot_be_ingested_are_named_and_the_others_ingested(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each reason is a sentence. A file that breaks off after some rows adds none of them."""
    folder = tmp_path / "in"
    good = write_archive(folder / "BTCUSDT-trades-2024-05-01.zip", spot(1), spot(2))
    write_archive(folder / "ETHUSDT-trades-2024-05-01.zip", futures(1))
    write_archive(folder / "2024" / "05" / "trades.zip", spot(1))
    write_archive(folder / "SOLUSDT-trades-2024-05-01.zip", spot(1))
    write_archive(folder / "SOLUSDT-aggTrades-2024-05-01.zip", agg(1))
    (folder / "README.txt").write_text("These are trades.\n")
    (folder / "empty.csv").touch()
    (folder / "link.csv").symlink_to(tmp_path / "elsewhere.csv")
    broken = folder / "ADAUSDT-trades-2024-05-01.csv.gz"
    text = "\n".join(spot(number) for number in range(2_000_000)).encode()
    packed = gzip.compress(text, 1)
    broken.write_bytes(packed[: len(packed) - 1000])
    code, out, err = call(capsys, "ingest", str(folder), "--json")
    skipped = json.loads(out)["skipped"]
    assert code == 1
    reasons = {Path(path).name: reason for path, reason in skipped.items()}
    assert set(reasons) == {
        "ETHUSDT-trades-2024-05-01.zip",
        "trades.zip",
        "SOLUSDT-trades-2024-05-01.zip",
        "SOLUSDT-aggTrades-2024-05-01.zip",
        "README.txt",
        "empty.csv",
        "link.csv",
        broken.name,
    }
    assert "the exchange is unknown: give --exchange" in reasons["ETHUSDT-trades-2024-05-01.zip"]
    assert "exchange is unknown" in reasons["trades.zip"]
    assert "only one of the two" in reasons["SOLUSDT-trades-2024-05-01.zip"]
    assert "outside the folder in" in reasons["link.csv"]
    assert all(reason in err for reason in reasons.values())
    assert stored_markets(home) == {("BINANCE", "BTCUSDT"): 2}
    code, out, _ = call(capsys, "ingest", str(good), str(folder), "--json")
    assert (code, json.loads(out)["added"], json.loads(out)["known"]) == (1, 0, 4)


def test_a_folder_without_files_is_wrong_use(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "nested").mkdir(parents=True)
    code, out, err = call(capsys, "ingest", str(tmp_path / "in"))
    assert (code, out) == (2, "")
    assert "the folder has no files of trades" in err
    assert not (home / "warehouse").exists()


def test_a_named_file_that_is_bad_still_stops_everything(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_archive(tmp_path / "in" / "BTCUSDT-trades-2024-05-01.zip", spot(1))
    bad = write_archive(tmp_path / "BTCUSDT-trades-2024-05-01.zip", "no trades")
    code, out, err = call(capsys, "ingest", str(good.parent), str(bad), "--json")
    assert (code, out) == (1, "")
    assert str(bad) in err
    assert stored_markets(home) == {}

"""Lakes with data, and writers of landing files, that several tests of operations use."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.lake import retry
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.ingest import IngestReport, ingest
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import DAILY, MINUTE
from k2_ohlcv_tests.support.corrections import TWO_MARKETS, WriteCsv, to_csv
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.forty_days import FORTY_DAYS, refresh_tables
from k2_ohlcv_tests.support.ingested import START, AddIds, IngestFiles
from k2_ohlcv_tests.support.lost_catalog import Reopen
from k2_ohlcv_tests.support.servers import S3
from k2_ohlcv_tests.support.trades import week_of_trades


@pytest.fixture
def write_csv(tmp_path: Path) -> WriteCsv:
    """Writes trades, and raw text after them, to one CSV file."""

    def call(trades: Iterable[Trade], raw: str = "") -> Path:
        path = tmp_path / "trades.csv"
        path.write_text(to_csv(trades) + raw)
        return path

    return call


@pytest.fixture
def two_markets(lake: Lake, write_csv: WriteCsv, tmp_path: Path) -> Lake:
    """A lake with trades of two markets over two days."""
    ingest(lake, [write_csv(TWO_MARKETS)], workspace=tmp_path / "work")
    return lake


@pytest.fixture
def ingest_files(lake: Lake, tmp_path: Path) -> IngestFiles:
    """Ingests texts (as files `0.csv`, `1.csv` …) or paths, and checks that the counts add up."""

    def call(*files: str | Path, **options: Any) -> IngestReport:
        paths = []
        for i, file in enumerate(files):
            path = tmp_path / f"{i}.csv" if isinstance(file, str) else file
            if isinstance(file, str):
                path.write_text(file)
            paths.append(path)
        arguments: dict[str, Any] = {"exchange": "E", "symbol": "S", "workspace": tmp_path / "work"} | options
        report = ingest(lake, paths, **arguments)
        assert report.read == report.added + report.duplicates + report.conflicts + report.rejected
        assert sum(report.per_day.values()) == report.added
        assert [p.name for p in (tmp_path / "work").iterdir()] == [".lock"]
        return report

    return call


@pytest.fixture
def add_ids(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddIds:
    """Ingests one row for each number. Returns how many rows were added."""
    monkeypatch.setattr(retry, "_MIN_PAUSE", 0.0)

    def call(*numbers: int) -> int:
        path = tmp_path / f"{numbers}.csv"
        path.write_text(
            "timestamp,price,size,id\n" + "".join(f"{START + n},{n + 1},1,{n}\n" for n in numbers)
        )
        return ingest(lake, [path], exchange="E", symbol="S", workspace=tmp_path / "work").added

    return call


@pytest.fixture
def forty_days(sail: EngineLake) -> EngineLake:
    """Forty days of trades, with every candle table up to date."""
    lakes.add_trades(sail.lake, FORTY_DAYS)
    refresh_tables(sail)
    return sail


@pytest.fixture
def three_days(sail: EngineLake) -> EngineLake:
    """Three days of trades in three commits, with the 1m and 1d tables up to date."""
    trades = week_of_trades()
    for first in range(0, len(trades), 48):
        lakes.add_trades(sail.lake, trades[first : first + 48])
    sail.refresh_tables(MINUTE, DAILY)
    return sail


@pytest.fixture
def reopen(tmp_path: Path, store: str, request: pytest.FixtureRequest) -> Reopen:
    """Opens the lake again, with the catalog that is there now."""

    def call() -> Lake:
        if store == "files":
            return lakes.open_lake(tmp_path)
        s3: S3 = request.getfixturevalue("s3")
        return lakes.on_s3(tmp_path, s3, request.getfixturevalue("bucket"))

    return call

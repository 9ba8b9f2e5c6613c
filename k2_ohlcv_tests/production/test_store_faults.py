"""Postgres and S3 fail while trades are ingested and tables refreshed. Afterwards all is right, once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from pyiceberg.table import Table
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.engine.session import Engine, open_engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.maintenance.orphan_files import remove_orphans
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.daily_candles import when_orphans_are_old
from k2_ohlcv_tests.support.native import Native, native_services
from k2_ohlcv_tests.support.production import MARKET, MONTH, production_variables
from k2_ohlcv_tests.support.proxy import Proxy, proxy_before
from k2_ohlcv_tests.support.trades import make_trade

pytestmark = pytest.mark.faults

MINUTE = find_timeframe("1m")
_URI, _ENDPOINT = "PYICEBERG_CATALOG__K2__URI", "PYICEBERG_CATALOG__K2__S3__ENDPOINT"


@dataclass
class Stores:
    """Postgres and S3 of docker/compose.yaml, each behind a proxy, and an engine on them."""

    native: Native
    postgres: Proxy
    s3: Proxy
    settings: Settings
    engine: Engine
    folder: Path
    landed: list[Trade]

    @property
    def lake(self) -> Lake:
        """The lake, opened anew: no connection is left from before a fault."""
        return Lake.open(self.settings)

    def more_trades(self) -> list[Trade]:
        """A day of trades that have not been ingested, enough for uploads of some size."""
        first = len(self.landed)
        return [
            make_trade(first + i, MONTH + timedelta(minutes=first + i), i % 97 + 100, market=MARKET)
            for i in range(1440)
        ]

    def ingest(self, trades: list[Trade]) -> int:
        """Ingest trades. Returns how many were new."""
        path = self.folder / f"{trades[0].trade_id}.csv"
        rows = [f"{t.timestamp.isoformat()},{t.price},{t.quantity},{t.trade_id}\n" for t in trades]
        path.write_text("".join(["timestamp,price,quantity,trade_id\n", *rows]))
        exchange, symbol = MARKET
        report = ingest(self.lake, [path], exchange=exchange, symbol=symbol, workspace=self.folder / "work")
        return report.added

    def restart_postgres(self) -> None:
        """Kill Postgres, and start it again."""
        self.native.stop("postgres", signal.SIGQUIT)
        self.native.start("postgres")

    def settle(self) -> int:
        """Work without faults, compare all tables with the reference, and clean up the store.

        Returns:
            How many files the fault has left behind.
        """
        self.postgres.fault = self.s3.fault = ""
        for timeframe in TIMEFRAMES:
            refresh(self.lake, self.engine, timeframe)
        lakes.assert_equal_to_trades(self.lake, self.landed)
        assert len(lakes.all_trades(self.lake)) == len(self.landed)
        assert [path.name for path in (self.folder / "work").iterdir()] == [".lock"]
        assert self._open_transactions() == 0
        loads: list[Callable[[], Table]] = [
            self.lake.trades,
            *(partial(self.lake.candles, each) for each in TIMEFRAMES),
        ]
        return sum(self._remove_orphans(load) for load in loads)

    def _open_transactions(self) -> int:
        database = create_engine(os.environ[_URI])
        with database.connect() as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
            return int(connection.execute(text(query)).scalar_one())

    def _remove_orphans(self, load: Callable[[], Table]) -> int:
        removed = remove_orphans(load, when_orphans_are_old())
        assert removed.refused == 0
        live = set(load().inspect.all_files()["file_path"].to_pylist())
        assert lakes.list_parquet_files(load()) == live
        return removed.files


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """Both servers up, with a first day of trades and all tables."""
    folder, before = tmp_path_factory.mktemp("stores"), dict(os.environ)
    with native_services(production_variables()) as native:
        for name in ("postgres", "s3"):
            native.start(name)
        native.finish("prepare")
        addresses = {name: native.addresses[name] for name in ("postgres", "s3")}
        with (
            proxy_before((addresses["postgres"], 5432)) as postgres,
            proxy_before((addresses["s3"], 7070)) as s3,
        ):
            environment = native.environment("code")
            for name in (each for each in environment if each.startswith("PYICEBERG_CATALOG__")):
                os.environ[name] = environment[name]
            at = f"{addresses['postgres']}:5432"
            os.environ[_URI] = environment[_URI].replace(at, f"127.0.0.1:{postgres.address[1]}")
            os.environ[_ENDPOINT] = f"http://127.0.0.1:{s3.address[1]}"
            settings = Settings.from_environ({**os.environ, "K2_HOME": str(folder)})
            try:
                with open_engine(settings) as engine:
                    yield Stores(native, postgres, s3, settings, engine, folder, [])
            finally:
                os.environ.clear()
                os.environ.update(before)


@pytest.mark.parametrize("fault", ["error", "cut", "down", "slow"])
def test_s3_fails_during_ingestion_and_refresh(stores: Stores, fault: str) -> None:
    """Nothing is stored twice or halfway, and the next attempt succeeds."""
    trades = stores.more_trades()
    stores.s3.fault, stores.s3.hits = fault, 0
    added = 0
    with suppress(Exception):
        added = stores.ingest(trades)
    assert stores.s3.hits, "the fault struck"
    assert added == (len(trades) if fault == "slow" else 0)
    stores.s3.fault = ""
    assert stores.ingest(trades) == len(trades) - added
    stores.landed += trades
    stores.s3.fault, stores.s3.hits = fault, 0
    with suppress(Exception):
        refresh(stores.lake, stores.engine, MINUTE)
    assert stores.s3.hits, "the fault struck"
    stores.settle()


@pytest.mark.parametrize("restarts", [False, True], ids=["connection", "server"])
def test_postgres_commits_and_its_answer_is_lost(stores: Stores, restarts: bool) -> None:
    """The writer does not learn of its commit, and its rows are there once."""
    trades, is_back = stores.more_trades(), threading.Event()

    def lose() -> None:
        if restarts:
            stores.restart_postgres()
        is_back.set()

    stores.postgres.after_commit, stores.postgres.hits = lose, 0
    with pytest.raises(OperationalError):
        stores.ingest(trades)
    assert is_back.wait(60)
    stores.landed += trades
    assert len(lakes.all_trades(stores.lake)) == len(stores.landed), "they were committed"
    assert stores.ingest(trades) == 0
    is_back.clear()
    stores.postgres.after_commit = lose
    with pytest.raises(OperationalError):
        refresh(stores.lake, stores.engine, MINUTE)
    assert is_back.wait(60)
    assert stores.postgres.hits == 2
    assert not refresh(stores.lake, stores.engine, MINUTE).partitions, "it was committed"
    assert stores.settle() == 0


def test_postgres_is_killed_before_a_commit_and_starts_again(stores: Stores) -> None:
    """What was not committed is not there, and is committed by the next attempt."""
    trades, is_back = stores.more_trades(), threading.Event()

    def restart() -> None:
        stores.restart_postgres()
        is_back.set()

    stores.postgres.before_commit, stores.postgres.hits = restart, 0
    with pytest.raises(OperationalError):
        stores.ingest(trades)
    assert is_back.wait(60)
    assert stores.ingest(trades) == len(trades)
    stores.landed += trades
    is_back.clear()
    stores.postgres.before_commit = restart
    with pytest.raises(OperationalError):
        refresh(stores.lake, stores.engine, MINUTE)
    assert stores.postgres.hits == 2
    assert is_back.wait(60)
    assert stores.settle() > 0

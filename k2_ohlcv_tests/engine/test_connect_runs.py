"""A run whose Connect server dies fails in words, frees its pool, and succeeds once the server is back."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from k2_ohlcv.cli import main
from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.engine import connect, session
from k2_ohlcv.engine.connect import Patience, ServerConnection
from k2_ohlcv.engine.sail_storage import SailStorage
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.trades_reader import TradesFrame
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.sail_server import server
from k2_ohlcv_tests.support.trades import make_trade


def _embedded(
    spark: SparkSession, _: bool, workspace: Path, *, connection: ServerConnection | None, memory_mb: int
) -> Engine:
    """An engine that finds tables by location, as that of the server in this process does."""
    return Engine(spark, True, workspace, SailStorage(), connection, memory_mb)


def test_a_run_whose_server_dies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sail in another process stands for the server; it finds tables by location."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr(connect, "PATIENCE", Patience(retry=2, close=1))
    monkeypatch.setattr(session, "Engine", _embedded)
    lake = lakes.open_lake(tmp_path)
    lakes.add_trades(lake, [make_trade(1)])
    collect = TradesFrame.collect
    with server() as one:
        monkeypatch.setenv("SPARK_REMOTE", one.remote)

        def dies(self: TradesFrame, frame: object) -> pa.Table:
            one.kill()
            return collect(self, frame)  # type: ignore[arg-type]

        monkeypatch.setattr(TradesFrame, "collect", dies)
        with pytest.raises(SystemExit) as ended:
            main.main(["rebuild", "--timeframe", "1h"])
        assert ended.value.code == 1
        said = " ".join(capsys.readouterr().err.split())
        assert f"the Spark Connect server at 127.0.0.1:{one.port} does not answer" in said
        assert "Traceback" not in said
        with open_instance(lakes.lake_settings(tmp_path)) as instance:
            pool = instance.event_log_storage.get_concurrency_info(find_timeframe("1h").table)
            assert pool.active_slot_count == 0
        monkeypatch.setattr(TradesFrame, "collect", collect)
        one.start()
        with pytest.raises(SystemExit) as ended:
            main.main(["rebuild", "--timeframe", "1h"])
        assert ended.value.code == 0
    assert lakes.read_candles(lake, find_timeframe("1h"))

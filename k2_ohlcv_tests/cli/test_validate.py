"""The output and the exit code of `k2-ohlcv validate`."""

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe, find_timeframe
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.frames.check_list import CHECKS
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.command_line import call
from k2_ohlcv_tests.support.trades import make_trade

HOUR = find_timeframe("1h")


@pytest.fixture
def lake(home: Path) -> Lake:
    return lakes.open_lake(home)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return call(capsys, "validate", *arguments)


def refresh_tables(lake: Lake, home: Path, *timeframes: Timeframe) -> None:
    with open_engine(lakes.lake_settings(home)) as engine:
        for timeframe in timeframes:
            refresh(lake, engine, timeframe)


def test_validate_passes_right_tables_and_fails_damaged_ones(
    lake: Lake, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    trades = [make_trade(i, datetime(2024, 2, 28, i, tzinfo=UTC), 9, 1, market=("X", "Y")) for i in range(9)]
    lakes.add_trades(lake, trades)
    refresh_tables(lake, home, *TIMEFRAMES)
    code, out, _ = run(capsys, "--json")
    checks = json.loads(out)["checks"]
    assert code == 0
    assert len(checks) == len(CHECKS) * len(TIMEFRAMES)
    assert set(checks[0]) == {"check", "timeframe", "ok", "failures", "partitions"}
    assert all(check["ok"] for check in checks)

    table = lake.candles(HOUR)
    twice = (pl.col("volume") * 2).cast(pl.Decimal(29, 8)).alias("volume")
    table_history.rewrite_files(table, list(table.scan().plan_files()), lambda rows: rows.with_columns(twice))
    code, out, err = run(capsys, "--timeframe", "1h", "--json")
    bad = {check["check"]: check for check in json.loads(out)["checks"] if not check["ok"]}
    assert code == 1
    assert set(bad) == {"reconciles_with_trades", "timeframes_agree"}
    assert bad["reconciles_with_trades"]["failures"] == 9
    assert bad["reconciles_with_trades"]["partitions"] == ["2024-02-28"]
    assert "reconciles_with_trades of 1h" in err


def test_dropped_windows_are_reported_and_pass(
    lake: Lake, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    """Days that retention dropped pass. The number of windows that were not compared is printed."""
    moments = [datetime(2024, 2, day, tzinfo=UTC) for day in (27, 28)]
    trades = [make_trade(i, at, 9, 1, market=("X", "Y")) for i, at in enumerate(moments)]
    lakes.add_trades(lake, trades)
    refresh_tables(lake, home, HOUR)
    with lake.candles(HOUR).transaction() as transaction:
        transaction.delete("window_start < '2024-02-28T00:00:00+00:00'")
        transaction.set_properties({EXPIRED_BEFORE: moments[1].isoformat()})
    code, out, _ = run(capsys, "--timeframe", "1h", "--from", "2024-02-27", "--to", "2024-02-28")
    assert code == 0
    assert "reconciles_with_trades of 1h: 24 windows are before frozen_before or expired_before" in out
    assert "gaps of 1h: spans without a candle: 1 expired" in out


def test_an_empty_lake_has_nothing_to_check(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert lake is not None
    code, out, err = run(capsys, "--json")
    assert (code, json.loads(out)["checks"]) == (0, [])
    assert "no candles yet" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--timeframe", "2m"], "'1m'"),
        (["--from", "yesterday"], "YYYY-MM-DD"),
        (["--lookback-days", "0"], "one day or more"),
        (["--lookback-days", "3", "--to", "2024-01-01"], "cannot be combined"),
        (["--from", "2024-01-02", "--to", "2024-01-01"], "is not after"),
    ],
)
def test_wrong_use_is_answered_with_the_right_use(
    lake: Lake, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert lake is not None
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert expected in err

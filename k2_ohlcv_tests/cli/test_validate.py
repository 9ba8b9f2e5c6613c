"""`k2-ohlcv validate`: what it prints, and when it fails."""

import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from k2_ohlcv.cli.main import main
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.frames.checks import CHECKS
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.trades import make_trade


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    return lakes.open_lake(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["validate", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_sound_tables_pass_and_damage_fails(
    lake: Lake, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    some = [make_trade(i, datetime(2024, 2, 28, i, tzinfo=UTC), 9, 1, market=("X", "Y")) for i in range(9)]
    lakes.add_trades(lake, some)
    with open_engine(lakes.lake_settings(tmp_path)) as engine:
        for each in TIMEFRAMES:
            refresh(lake, engine, each)
    code, out, _ = run(capsys, "--json")
    found = json.loads(out)["checks"]
    assert code == 0
    assert len(found) == len(CHECKS) * len(TIMEFRAMES)
    assert set(found[0]) == {"check", "timeframe", "ok", "failures", "partitions"}
    assert all(one["ok"] for one in found)

    table = lake.candles(find_timeframe("1h"))
    twice = (pl.col("volume") * 2).cast(pl.Decimal(29, 8)).alias("volume")
    table_history.rewrite_files(table, list(table.scan().plan_files()), lambda rows: rows.with_columns(twice))
    code, out, err = run(capsys, "--timeframe", "1h", "--json")
    bad = {one["check"]: one for one in json.loads(out)["checks"] if not one["ok"]}
    assert code == 1
    assert set(bad) == {"reconciles_with_trades", "timeframes_agree"}
    assert bad["reconciles_with_trades"]["failures"] == 9
    assert bad["reconciles_with_trades"]["partitions"] == ["2024-02-28"]
    assert "reconciles_with_trades of 1h" in err


def test_what_was_dropped_is_said(lake: Lake, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Days that retention dropped pass, and what was not compared is beside the table of checks."""
    moments = [datetime(2024, 2, day, tzinfo=UTC) for day in (27, 28)]
    some = [make_trade(i, at, 9, 1, market=("X", "Y")) for i, at in enumerate(moments)]
    lakes.add_trades(lake, some)
    with open_engine(lakes.lake_settings(tmp_path)) as engine:
        refresh(lake, engine, find_timeframe("1h"))
    with lake.candles(find_timeframe("1h")).transaction() as transaction:
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
    ("arguments", "said"),
    [
        (["--timeframe", "2m"], "'1m'"),
        (["--from", "yesterday"], "YYYY-MM-DD"),
        (["--lookback-days", "0"], "one day or more"),
        (["--lookback-days", "3", "--to", "2024-01-01"], "cannot be combined"),
        (["--from", "2024-01-02", "--to", "2024-01-01"], "is not after"),
    ],
)
def test_wrong_use_says_what_is_right(
    lake: Lake, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert lake is not None
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err

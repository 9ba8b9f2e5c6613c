"""What `k2-ohlcv retention` says."""

import json
from pathlib import Path

import pytest

from k2_ohlcv.cli.console import Console
from k2_ohlcv.cli.retention import run_retention
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.daily_candles import put_candles, trades_of_days

#: What the issue asks of each table.
KEYS = {"table", "cutoff", "partitions", "rows", "bytes", "files_removed", "bytes_freed"}


@pytest.fixture
def filled(lake: Lake) -> Lake:
    put_candles(lake, trades_of_days(20))
    return lake


def said(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    as_json: bool = True,
    apply: bool = False,
    as_of: str | None = "2024-04-01",
    timeframe: str = "all",
    kept: str = "",
) -> str:
    capsys.readouterr()
    with Console(lakes.lake_settings(home, K2_RETENTION_1M=kept), as_json=as_json) as terminal:
        run_retention(terminal, apply=apply, as_of=as_of, timeframe=timeframe)
    return capsys.readouterr().out


def test_json_says_what_goes_and_what_went(
    filled: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for apply in (False, True):
        found = json.loads(said(tmp_path, capsys, apply=apply, kept="30d"))
        assert found["applied"] is apply
        assert [t["table"] for t in found["tables"]] == ["gold_crypto_trades", *(t.table for t in TIMEFRAMES)]
        assert all(set(t) >= KEYS for t in found["tables"])
        minute = found["tables"][1]
        assert minute["cutoff"] == "2024-03-02T00:00:00+00:00"
        assert (minute["partitions"][0], minute["partitions"][-1]) == ("2024-02-20", "2024-03-01")
        assert (len(minute["partitions"]), minute["rows"]) == (11, 33)
    assert json.loads(said(tmp_path, capsys, timeframe="1m", kept="30d"))["tables"][0]["partitions"] == []


def test_people_are_told_that_it_is_a_dry_run_and_how_to_apply(
    filled: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(tmp_path, capsys, as_json=False, kept="30d")
    assert "gold_ohlcv_1m: 2024-02-20 to 2024-03-01 are past retention." in text
    assert "11 partitions" in text
    assert "This was a dry run: --apply drops them." in text
    text = said(tmp_path, capsys, as_json=False, apply=True, kept="30d")
    assert "11 partitions dropped, 0 files removed. Kept snapshots still need their files" in text
    assert "Nothing was past retention" in said(tmp_path, capsys, as_json=False, apply=True, kept="30d")


def test_a_wrong_value_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="is not a date"):
        said(tmp_path, capsys, as_of="soon")
    with pytest.raises(UsageError, match="no timeframe '2m'"):
        said(tmp_path, capsys, timeframe="2m")
    with pytest.raises(UsageError, match="K2_RETENTION_1M"):
        said(tmp_path, capsys, kept="1")

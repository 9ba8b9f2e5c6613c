"""The output of `k2-ohlcv retention`."""

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

#: The documented fields of each table.
KEYS = {"table", "cutoff", "partitions", "rows", "bytes", "files_removed", "bytes_freed"}


@pytest.fixture
def filled(lake: Lake) -> Lake:
    lakes.add_trades(lake, trades_of_days(20))
    put_candles(lake, trades_of_days(20))
    return lake


def print_retention(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    as_json: bool = True,
    apply: bool = False,
    as_of: str | None = "2024-04-01",
    timeframe: str = "all",
    retention: str = "",
) -> str:
    capsys.readouterr()
    with Console(lakes.lake_settings(home, K2_RETENTION_1M=retention), as_json=as_json) as terminal:
        run_retention(terminal, apply=apply, as_of=as_of, timeframe=timeframe)
    return capsys.readouterr().out


def test_json_names_the_partitions_before_and_after_the_drop(
    filled: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for apply in (False, True):
        output = json.loads(print_retention(tmp_path, capsys, apply=apply, retention="30d"))
        assert output["applied"] is apply
        assert [t["table"] for t in output["tables"]] == [
            "gold_crypto_trades",
            *(t.table for t in TIMEFRAMES),
        ]
        assert all(set(t) >= KEYS for t in output["tables"])
        minute = output["tables"][1]
        assert minute["cutoff"] == "2024-03-02T00:00:00+00:00"
        assert (minute["partitions"][0], minute["partitions"][-1]) == ("2024-02-20", "2024-03-01")
        assert (len(minute["partitions"]), minute["rows"]) == (11, 33)
    assert (
        json.loads(print_retention(tmp_path, capsys, timeframe="1m", retention="30d"))["tables"][0][
            "partitions"
        ]
        == []
    )


def test_the_text_says_that_it_is_a_dry_run_and_how_to_apply_it(
    filled: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = print_retention(tmp_path, capsys, as_json=False, retention="30d")
    assert "gold_ohlcv_1m: 2024-02-20 to 2024-03-01 are past retention." in text
    assert "11 partitions" in text
    assert "This was a dry run: --apply drops them." in text
    text = print_retention(tmp_path, capsys, as_json=False, apply=True, retention="30d")
    assert "11 partitions dropped, 0 files removed. Kept snapshots still need their files" in text
    assert "Nothing was past retention" in print_retention(
        tmp_path, capsys, as_json=False, apply=True, retention="30d"
    )


def test_a_wrong_value_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="is not a date"):
        print_retention(tmp_path, capsys, as_of="soon")
    with pytest.raises(UsageError, match="no timeframe '2m'"):
        print_retention(tmp_path, capsys, timeframe="2m")
    with pytest.raises(UsageError, match="K2_RETENTION_1M"):
        print_retention(tmp_path, capsys, retention="1")

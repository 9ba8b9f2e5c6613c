"""The output of `k2-ohlcv rebuild` and `refresh`, and the end of a failed run."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.defs.assets.candles import MAX_DETAILED_PARTITIONS, RUN_COUNTS
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.command_line import ROOT, call, run, write_trades_csv

TABLES = {timeframe.table for timeframe in TIMEFRAMES}


def read_events(stderr: str) -> list[dict[str, Any]]:
    """The log lines of a command with `K2_LOG=json`."""
    return [json.loads(line) for line in stderr.splitlines()]


def test_rebuild_of_an_empty_lake(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is rebuilt and no run starts. A note says to ingest first."""
    code, out, err = call(capsys, "rebuild", "--json")
    assert code == 0
    assert json.loads(out)["run_ids"] == []
    assert "ingest" in err


def test_rebuild_of_days_far_apart(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only partitions with trades are rebuilt, and the tables are then up to date."""
    file = write_trades_csv(home, "2013-02-27T01:00:00Z,1,1,a", "2024-02-28T01:00:00Z,2,1,b")
    assert call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")[0] == 0
    code, out, _ = call(capsys, "rebuild", "--json")
    result = json.loads(out)
    assert code == 0
    assert len(result["run_ids"]) == 2, "a run of the daily tables, and a run of the monthly one"
    assert {(t["added"], t["partitions"]) for t in result["tables"]} == {(2, 2)}
    status = json.loads(call(capsys, "status", "--json")[1])
    assert {table["lag_seconds"] for table in status["tables"]} == {0.0}
    again = json.loads(call(capsys, "rebuild", "--timeframe", "1h", "--to", "2020-01-01", "--json")[1])
    assert [(t["partitions"], t["unchanged"]) for t in again["tables"]] == [(1, 1)]


def test_rebuild_where_partitions_begin_with_retention(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each table has other partitions, and therefore its own run."""
    monkeypatch.setenv("K2_START_DATE", "retention")
    days = [datetime.now(UTC) - timedelta(days=ago) for ago in (2, 100)]
    file = write_trades_csv(
        home.parent / "in", *(f"{day:%Y-%m-%dT01:00:00Z},10,1,{i}" for i, day in enumerate(days))
    )
    assert call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")[0] == 0
    code, out, _ = call(capsys, "rebuild", "--json")
    assert code == 0
    result = json.loads(out)
    assert len(result["run_ids"]) == len(TIMEFRAMES)
    expected = [
        sum(day > datetime.now(UTC) - timeframe.default_retention for day in days) for timeframe in TIMEFRAMES
    ]
    assert [table["added"] for table in result["tables"]] == expected


def test_refresh_reports_the_changes_of_each_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--explain` changes nothing. A refresh reports its changes, and a second one changes nothing."""
    file = write_trades_csv(home, "2024-02-27T01:00:00Z,1,1,a", "2024-02-28T01:00:00Z,2,1,b")
    assert call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")[0] == 0
    plan = json.loads(call(capsys, "refresh", "--explain", "--json")[1])
    assert {table["table"] for table in plan["tables"]} == TABLES
    assert "no watermark" in call(capsys, "refresh", "--explain")[1]
    assert json.loads(call(capsys, "status", "--json")[1])["tables"][0]["rows"] == 0, (
        "--explain changes nothing"
    )
    code, out, err = call(capsys, "refresh", "--timeframe", "1h", "--json")
    assert code == 0, err
    first = json.loads(out)
    (table,) = first["tables"]
    assert (code, out.count("\n"), len(first["run_ids"])) == (0, 1, 1)
    assert (table["from"], table["added"], table["partitions"]) == (None, 2, ["2024-02-27", "2024-02-28"])
    late = write_trades_csv(home / "late", "2024-02-27T01:30:00Z,3,1,c")
    assert call(capsys, "ingest", str(late), "--exchange", "X", "--symbol", "AB")[0] == 0
    printed = call(capsys, "refresh", "--timeframe", "1h", "--json")
    assert printed[0] == 0, printed[2]
    (table,) = json.loads(printed[1])["tables"]
    assert (table["from"], table["changed"], table["unchanged"]) == (first["tables"][0]["to"], 1, 0)
    assert table["dirty"] == [["2024-02-27T01:00:00+00:00", "2024-02-27T02:00:00+00:00"]]
    code, out, err = call(capsys, "refresh", "--timeframe", "1h", "--json")
    again = json.loads(out)
    assert (code, again["run_ids"], again["tables"][0]["to"]) == (0, [], table["to"])
    assert set(again["tables"][0]) == set(table), "the same fields, also when nothing changed"
    assert "up to date" in err


@pytest.mark.system
def test_rebuild_as_a_process(home: Path, tmp_path: Path) -> None:
    """Stdout has one JSON object and stderr only JSON lines. The working folder gets no file."""
    file = write_trades_csv(tmp_path / "in", "2024-02-27T01:00:00Z,10,1,a", "2024-02-28T01:00:00Z,12,2,b")
    assert run("ingest", str(file), "--exchange", "X", "--symbol", "AB").returncode == 0
    before = set(ROOT.iterdir())
    done = run("rebuild", "--json", K2_LOG="json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert {table["table"]: table["added"] for table in result["tables"]} == dict.fromkeys(TABLES, 2)
    events = read_events(done.stderr)
    assert all({"timestamp", "level", "event"} <= set(line) for line in events)
    rebuilt = [line for line in events if line["event"] == "candles rebuilt"]
    assert {line["table"] for line in rebuilt} == TABLES
    for line in rebuilt:
        assert {"partitions", "snapshot", "run_id", "counts", "seconds"} <= set(line)
        assert line["counts"]["windows_added"] == 2
    assert {line["run_id"] for line in rebuilt} == set(result["run_ids"])
    assert set(ROOT.iterdir()) - before <= {ROOT / ".hypothesis", ROOT / ".pytest_cache"}
    assert (home / "dagster" / "dagster.yaml").read_bytes() == (ROOT / "dagster.yaml").read_bytes()

    again = json.loads(run("rebuild", "--timeframe", "1h", "--from", "2024-02-28", "--json").stdout)
    (table,) = again["tables"]
    assert (table["added"], table["changed"], table["unchanged"], table["partitions"]) == (0, 0, 1, 1)


@pytest.mark.system
def test_a_failed_run_ends_with_an_error(home: Path, tmp_path: Path) -> None:
    """An unreachable engine ends the command within seconds. The last line is the reason."""
    file = write_trades_csv(tmp_path / "in", "2024-02-27T01:00:00Z,10,1,a")
    assert run("ingest", str(file), "--exchange", "X", "--symbol", "AB").returncode == 0
    failed = run("rebuild", "--timeframe", "1h", "--json", SPARK_REMOTE="sc://127.0.0.1:9", K2_LOG="json")
    assert (failed.returncode, failed.stdout) == (1, "")
    events = read_events(failed.stderr)
    assert "127.0.0.1:9" in events[-1]["event"]
    assert {"run failed", "step failed"} <= {line["event"] for line in events}
    assert all("127.0.0.1:9" in line["error"] for line in events if line["event"] == "step failed")


@pytest.mark.system
@pytest.mark.parametrize("command", ["rebuild", "refresh"])
def test_a_failure_is_logged_with_table_partitions_and_snapshot(
    home: Path, tmp_path: Path, command: str
) -> None:
    """The failed step and its run are logged with table, partitions, trades snapshot and error."""
    file = write_trades_csv(tmp_path / "in", "2024-02-27T01:00:00Z,10,1,a")
    ingested = json.loads(run("ingest", str(file), "--exchange", "X", "--symbol", "AB", "--json").stdout)
    failed = run(command, "--timeframe", "1h", SPARK_REMOTE="sc://127.0.0.1:9", K2_LOG="json")
    events = read_events(failed.stderr)
    failures = [line for line in events if line["event"] in {"run failed", "step failed"}]
    assert {line["event"] for line in failures if line.get("step") != "check_gold_ohlcv_1h"} == {
        "run failed",
        "step failed",
    }
    for line in failures:
        assert (line["level"], line["table"], line["partitions"]) == ("error", "gold_ohlcv_1h", "2024-02-27")
        assert line["snapshot"] == ingested["snapshot"]
        assert "127.0.0.1:9" in line["error"]


def test_a_run_of_many_partitions_records_few_numbers_of_each(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's numbers are recorded once. The counts that the command shows are those of the whole run."""
    days = [date(2024, 1, 1) + timedelta(days=5 * number) for number in range(8)]
    file = write_trades_csv(tmp_path, *(f"{day}T01:00:00Z,10,1,{day.toordinal()}" for day in days))
    assert call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")[0] == 0
    code, out, err = call(capsys, "rebuild", "--timeframe", "1h", "--json")
    assert code == 0, err
    (rebuilt,) = json.loads(out)["tables"]
    assert (rebuilt["added"], rebuilt["partitions"], rebuilt["trades_read"]) == (8, 36, 8)
    with open_instance(lakes.lake_settings(home)) as instance:
        records = instance.fetch_materializations(dg.AssetKey("gold_ohlcv_1h"), limit=100).records
    numbers = {}
    for record in records:
        assert record.asset_materialization is not None
        numbers[str(record.partition_key)] = set(record.asset_materialization.metadata)
    short = {"windows_written", "trades", "dagster/partition_row_count"}
    assert len(numbers) == 36 > MAX_DETAILED_PARTITIONS
    assert numbers.pop("2024-02-05") >= short | {"mode", "seconds", RUN_COUNTS}
    assert all(names == short for names in numbers.values())

"""The command line: help, wrong use, wrong settings, and how texts are shown."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from k2_ohlcv.cli import console
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support.command_line import ROOT, call, write_trades_csv

TABLES = {timeframe.table for timeframe in TIMEFRAMES}
COMMANDS = ("ingest", "rebuild", "refresh", "status", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert "Examples" in out
    assert f"k2-ohlcv {command}" in out
    assert "--json" in out
    assert not home.exists(), "help creates nothing"


def test_help_loads_no_engine() -> None:
    """`--help` is fast, because Dagster, Spark and Iceberg are imported only where they are used."""
    script = "import sys, k2_ohlcv.cli.main; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"dagster", "pyspark", "pyiceberg", "polars", "pyarrow"} & set(loaded)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["rebuild", "--timeframe", "2m"], ["2m", *(t.name for t in TIMEFRAMES)]),
        (["refresh", "--timeframe", "2m"], ["2m", *(t.name for t in TIMEFRAMES)]),
        (["rebuild", "--from", "25.11.2013"], ["25.11.2013", "YYYY-MM-DD"]),
        (["rebuild", "--from", "2013-11-26", "--to", "2013-11-26"], ["2013-11-26", "--to"]),
        (["rebuild", "--from", "1999-01-01", "--to", "1999-01-02"], ["2013-01-01", "K2_START_DATE"]),
        (["ingest", "FILE", "--exchange", "X", "--symbol", "Y", "--format", "xml"], ["xml", "auto"]),
        (["ingest"], ["FILE"]),
        (["frobnicate"], ["frobnicate"]),
    ],
    ids=[
        "timeframe",
        "timeframe of refresh",
        "date",
        "order",
        "before the start",
        "format",
        "no file",
        "command",
    ],
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_wrong_use_is_answered_with_the_right_use(
    arguments: list[str], names: list[str], as_json: bool, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2. Stderr names the mistake and the right use, and stdout is empty."""
    file = write_trades_csv(home, "2024-02-27T01:00:00Z,1,1,a")
    filled = [str(file) if argument == "FILE" else argument for argument in arguments]
    code, out, err = call(capsys, *filled, *(["--json"] if as_json and arguments != ["frobnicate"] else []))
    assert code == 2
    assert out == ""
    assert all(name in " ".join(err.split()) for name in names), err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "value"), [("K2_LOG", "xml"), ("K2_START_DATE", "soon")], ids=["log", "start date"]
)
def test_a_wrong_setting_is_wrong_use(
    name: str, value: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    code, _, err = call(capsys, "status")
    assert (code, name in err, value in err) == (2, True, True)


def test_status_of_an_empty_lake(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The five tables have no rows and no lag."""
    code, out, err = call(capsys, "status", "--json")
    status = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert {table["table"] for table in status["tables"]} == TABLES
    for table in status["tables"]:
        assert {"rows", "partitions", "first", "last", "trades_head", "watermark", "lag_seconds"} <= set(
            table
        )
        assert (table["rows"], table["first"], table["lag_seconds"]) == (0, None, 0.0)
    code, out, _ = call(capsys, "status")
    assert code == 0
    assert all(table in out for table in TABLES)


def test_tables_and_texts_are_shown_as_they_are(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Market names come from files. They are never read as markup."""
    terminal = console.Console(Settings.from_environ(), as_json=False)
    shown = console.table("name", title="[bold]T\x1b[1m")
    shown.add_row("[red]B\x1b[31mTC[/red]")
    terminal.print_text(shown, "[green]:smile:\x9b1m")
    terminal.print_note("[blue]n\x07")
    console.report_error("[red]e\x1b[0m")
    printed = capsys.readouterr()
    for text in ("[red]B\\x1b[31mTC[/red]", "[bold]T\\x1b[1m", "[green]:smile:\\x9b1m"):
        assert text in printed.out
    assert "[blue]n\\x07" in printed.err
    assert "error: [red]e\\x1b[0m" in printed.err

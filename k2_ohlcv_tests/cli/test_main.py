"""The command line as people and scripts meet it: what it prints where, and how it ends."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from k2_ohlcv.cli import console as terminals
from k2_ohlcv.cli import main
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.settings import Settings

# Dagster 1.13 reads a pydantic attribute that pydantic 2.14 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

ROOT = Path(__file__).parents[2]
TABLES = {timeframe.table for timeframe in TIMEFRAMES}
COMMANDS = ("ingest", "rebuild", "refresh", "status", "demo")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """K2_HOME of a test, and none of the other variables."""
    for name in [*os.environ]:
        if name.startswith("K2_") or name in {"DAGSTER_HOME", "SPARK_REMOTE"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("K2_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, in a folder that it must not write to."""
    return subprocess.run(
        [sys.executable, "-m", "k2_ohlcv.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command in this process: exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        main.main([*arguments])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def trades_csv(folder: Path, *rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "trades.csv"
    file.write_text("\n".join(["timestamp,price,quantity,trade_id", *rows, ""]))
    return file


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert "Examples" in out
    assert f"k2-ohlcv {command}" in out
    assert "--json" in out
    assert not home.exists(), "help makes nothing"


def test_help_loads_no_engine() -> None:
    """`--help` answers at once: Dagster, Spark and Iceberg are imported when something uses them."""
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
def test_wrong_use_names_the_right(
    arguments: list[str], names: list[str], as_json: bool, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, what was wrong and what would be right on stderr, and nothing on stdout."""
    file = trades_csv(home, "2024-02-27T01:00:00Z,1,1,a")
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
    """Five tables without rows, none of them behind."""
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


def test_rebuild_of_an_empty_lake(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to do is done: no run, and a word on what to do first."""
    code, out, err = call(capsys, "rebuild", "--json")
    assert code == 0
    assert json.loads(out)["run_ids"] == []
    assert "ingest" in err


def test_rebuild_of_days_far_apart(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Years without data are no partitions of a run; what has data is rebuilt, and the watermark says so."""
    file = trades_csv(home, "2013-02-27T01:00:00Z,1,1,a", "2024-02-28T01:00:00Z,2,1,b")
    assert call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")[0] == 0
    code, out, _ = call(capsys, "rebuild", "--json")
    result = json.loads(out)
    assert code == 0
    assert len(result["run_ids"]) == 2, "one of the daily tables, one of the monthly one"
    assert {(t["added"], t["partitions"]) for t in result["tables"]} == {(2, 2)}
    status = json.loads(call(capsys, "status", "--json")[1])
    assert {table["lag_seconds"] for table in status["tables"]} == {0.0}
    again = json.loads(call(capsys, "rebuild", "--timeframe", "1h", "--to", "2020-01-01", "--json")[1])
    assert [(t["partitions"], t["unchanged"]) for t in again["tables"]] == [(1, 1)]


def test_rebuild_where_partitions_begin_with_retention(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each table has partitions, and so a run, of its own."""
    monkeypatch.setenv("K2_START_DATE", "retention")
    days = [datetime.now(UTC) - timedelta(days=ago) for ago in (2, 100)]
    file = trades_csv(
        home.parent / "in", *(f"{day:%Y-%m-%dT01:00:00Z},10,1,{i}" for i, day in enumerate(days))
    )
    assert call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")[0] == 0
    code, out, _ = call(capsys, "rebuild", "--json")
    assert code == 0
    made = json.loads(out)
    assert len(made["run_ids"]) == len(TIMEFRAMES)
    kept = [
        sum(day > datetime.now(UTC) - timeframe.default_retention for day in days) for timeframe in TIMEFRAMES
    ]
    assert [table["added"] for table in made["tables"]] == kept


def test_refresh(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Explained, done, done again: what changed since last time, by table, and nothing the second time."""
    file = trades_csv(home, "2024-02-27T01:00:00Z,1,1,a", "2024-02-28T01:00:00Z,2,1,b")
    assert call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")[0] == 0
    plan = json.loads(call(capsys, "refresh", "--explain", "--json")[1])
    assert {one["table"] for one in plan["tables"]} == TABLES
    assert "no watermark" in call(capsys, "refresh", "--explain")[1]
    assert json.loads(call(capsys, "status", "--json")[1])["tables"][0]["rows"] == 0, "explained, not done"
    code, out, err = call(capsys, "refresh", "--timeframe", "1h", "--json")
    assert code == 0, err
    first = json.loads(out)
    (table,) = first["tables"]
    assert (code, out.count("\n"), len(first["run_ids"])) == (0, 1, 1)
    assert (table["from"], table["added"], table["partitions"]) == (None, 2, ["2024-02-27", "2024-02-28"])
    late = trades_csv(home / "late", "2024-02-27T01:30:00Z,3,1,c")
    assert call(capsys, "ingest", str(late), "--exchange", "X", "--symbol", "AB")[0] == 0
    printed = call(capsys, "refresh", "--timeframe", "1h", "--json")
    assert printed[0] == 0, printed[2]
    (table,) = json.loads(printed[1])["tables"]
    assert (table["from"], table["changed"], table["unchanged"]) == (first["tables"][0]["to"], 1, 0)
    assert table["dirty"] == [["2024-02-27T01:00:00+00:00", "2024-02-27T02:00:00+00:00"]]
    code, out, err = call(capsys, "refresh", "--timeframe", "1h", "--json")
    again = json.loads(out)
    assert (code, again["run_ids"], again["tables"][0]["to"]) == (0, [], table["to"])
    assert set(again["tables"][0]) == set(table), "the same fields, whether there was anything to do or not"
    assert "up to date" in err


def test_ingest(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers of the report, and the same file again adds nothing."""
    file = trades_csv(home, "2024-02-27T01:00:00Z,1,1,a", "2024-02-27T02:00:00Z,0,1,b")
    arguments = ["ingest", str(file), "--exchange", "X", "--symbol", "AB"]
    code, out, _ = call(capsys, *arguments, "--json")
    report = json.loads(out)
    keys = {"read", "added", "known", "conflicts", "rejected", "first", "last", "snapshot"}
    assert code == 0
    assert keys <= set(report)
    assert (report["read"], report["added"], report["rejected"]) == (2, 1, 1)
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert "Nothing new" in out


def test_a_bad_file_is_failed_work(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, the reason on stderr without a traceback, nothing on stdout."""
    home.mkdir()
    file = home / "cut.zip"
    file.write_bytes(b"PK\x03\x04 not all of it")
    code, out, err = call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB", "--json")
    assert (code, out) == (1, "")
    assert "cut.zip" in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("[red]x", "[red]x"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("caf\udce9", "caf\\xe9"),
        (":smile:[b]", ":smile:[b]"),
    ],
)
def test_what_a_file_holds_or_is_called_is_shown_as_text(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, shown: str
) -> None:
    """Neither markup nor control characters of it reach the terminal."""
    file = tmp_path / name
    for content in (b"ARROW1\x00\x00\x1b[2J\x07", b"\x1b[31m[red]:smile:,b\n\x07,1\n", b""):
        file.write_bytes(content)
        code, out, err = call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")
        assert (code, out) == (1, "")
        assert err.replace("\n", "").isprintable(), ascii(err)
        assert f"/{shown}: " in err


def test_a_last_line_without_an_end_is_said(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is shown by name, the line by number."""
    file = trades_csv(tmp_path / "in", "2024-02-27T01:00:00Z,10,1,a")
    file = file.rename(file.with_name("[red]t.csv"))
    file.write_text(file.read_text() + "2024-02-27T02:00:00Z,10,1")
    code, out, _ = call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")
    assert code == 0
    assert "[red]t.csv: line 3, the last one, has no end of line" in out


def test_tables_and_texts_are_shown_as_they_are(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of markets come from files: in cells, titles, notes and errors they are no markup."""
    terminal = terminals.Console(Settings.from_environ(), as_json=False)
    shown = terminals.table("name", title="[bold]T\x1b[1m")
    shown.add_row("[red]B\x1b[31mTC[/red]")
    terminal.print_text(shown, "[green]:smile:\x9b1m")
    terminal.print_note("[blue]n\x07")
    terminals.report_error("[red]e\x1b[0m")
    printed = capsys.readouterr()
    for text in ("[red]B\\x1b[31mTC[/red]", "[bold]T\\x1b[1m", "[green]:smile:\\x9b1m"):
        assert text in printed.out
    assert "[blue]n\\x07" in printed.err
    assert "error: [red]e\\x1b[0m" in printed.err


@pytest.mark.system
def test_rebuild_as_a_process(home: Path, tmp_path: Path) -> None:
    """One object on stdout, JSON lines alone on stderr, the run in the instance, nothing in the folder."""
    file = trades_csv(tmp_path / "in", "2024-02-27T01:00:00Z,10,1,a", "2024-02-28T01:00:00Z,12,2,b")
    assert run("ingest", str(file), "--exchange", "X", "--symbol", "AB").returncode == 0
    before = set(ROOT.iterdir())
    done = run("rebuild", "--json", K2_LOG="json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert {table["table"]: table["added"] for table in result["tables"]} == dict.fromkeys(TABLES, 2)
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"timestamp", "level", "event"} <= set(line) for line in lines)
    rebuilt = [line for line in lines if line["event"] == "candles rebuilt"]
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
def test_a_failed_run_is_failed_work(home: Path, tmp_path: Path) -> None:
    """An engine that isn't there: exit code 1 within seconds, the reason as the last line, no traceback."""
    file = trades_csv(tmp_path / "in", "2024-02-27T01:00:00Z,10,1,a")
    assert run("ingest", str(file), "--exchange", "X", "--symbol", "AB").returncode == 0
    failed = run("rebuild", "--timeframe", "1h", "--json", SPARK_REMOTE="sc://127.0.0.1:9", K2_LOG="json")
    assert (failed.returncode, failed.stdout) == (1, "")
    lines = [json.loads(line) for line in failed.stderr.splitlines()]
    assert "127.0.0.1:9" in lines[-1]["event"]
    assert {"run failed", "step failed"} <= {line["event"] for line in lines}
    assert all("127.0.0.1:9" in line["error"] for line in lines if line["event"] == "step failed")


@pytest.mark.system
@pytest.mark.parametrize("command", ["rebuild", "refresh"])
def test_a_failure_is_a_line_that_says_what_failed(home: Path, tmp_path: Path, command: str) -> None:
    """Table, partitions, trades snapshot and error: of the step that failed, and of its run."""
    file = trades_csv(tmp_path / "in", "2024-02-27T01:00:00Z,10,1,a")
    ingested = json.loads(run("ingest", str(file), "--exchange", "X", "--symbol", "AB", "--json").stdout)
    failed = run(command, "--timeframe", "1h", SPARK_REMOTE="sc://127.0.0.1:9", K2_LOG="json")
    lines = [json.loads(line) for line in failed.stderr.splitlines()]
    found = [line for line in lines if line["event"] in {"run failed", "step failed"}]
    assert {line["event"] for line in found if line.get("step") != "check_gold_ohlcv_1h"} == {
        "run failed",
        "step failed",
    }
    for line in found:
        assert (line["level"], line["table"], line["partitions"]) == ("error", "gold_ohlcv_1h", "2024-02-27")
        assert line["snapshot"] == ingested["snapshot"]
        assert "127.0.0.1:9" in line["error"]

"""`k2-ohlcv ingest`: its report, bad files, and names that are shown as text."""

import json
from pathlib import Path

import pytest

from k2_ohlcv_tests.support.command_line import call, write_trades_csv


def test_ingest_reports_its_counts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report has the counts of rows. The same file again adds nothing."""
    file = write_trades_csv(home, "2024-02-27T01:00:00Z,1,1,a", "2024-02-27T02:00:00Z,0,1,b")
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


def test_a_bad_file_is_an_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1. The reason is on stderr without a traceback, and stdout is empty."""
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
def test_names_and_contents_of_files_are_shown_as_text(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, shown: str
) -> None:
    """Neither markup nor control characters of a file reach the terminal."""
    file = tmp_path / name
    for content in (b"ARROW1\x00\x00\x1b[2J\x07", b"\x1b[31m[red]:smile:,b\n\x07,1\n", b""):
        file.write_bytes(content)
        code, out, err = call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")
        assert (code, out) == (1, "")
        assert err.replace("\n", "").isprintable(), ascii(err)
        assert f"/{shown}: " in err


def test_a_last_line_without_an_end_is_reported(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the name of the file and the number of the line."""
    file = write_trades_csv(tmp_path / "in", "2024-02-27T01:00:00Z,10,1,a")
    file = file.rename(file.with_name("[red]t.csv"))
    file.write_text(file.read_text() + "2024-02-27T02:00:00Z,10,1")
    code, out, _ = call(capsys, "ingest", str(file), "--exchange", "X", "--symbol", "AB")
    assert code == 0
    assert "[red]t.csv: line 3, the last one, has no end of line" in out

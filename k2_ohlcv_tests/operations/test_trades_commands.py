"""The commands `trades delete` and `trades replace`."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from k2_ohlcv.cli.main import main
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.corrections import NOON, TWO_MARKETS, WriteCsv, stored_trades, trade


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command. Returns exit code, output and error output."""
    with pytest.raises(SystemExit) as caught:
        main(["trades", *arguments])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


@pytest.mark.parametrize(
    ("options", "deleted"),
    [
        (("--from", "9999-12-31"), {"far", "last"}),
        (("--from", "9999-01-01", "--to", "9999-12-31T23:59:59"), {"far"}),
        (("--from", "2200-06-01"), {"far", "last"}),
        (("--to", "1970-01-01"), {"old"}),
        (("--from", "1969-05-01", "--to", "1969-05-02"), {"old"}),
        (("--to", "1900-01-01"), {"older"}),
    ],
)
def test_trades_of_impossible_times_are_deleted_by_their_times(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    deleted: set[str],
) -> None:
    """Such trades have no candle. The check that reports them passes only after their deletion."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    lake, last = lakes.open_lake(tmp_path), datetime.max.replace(tzinfo=UTC)
    old, far = datetime(1969, 5, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
    times = {"old": old, "older": old.replace(year=1800), "far": far, "last": last, "good": NOON}
    for name, at in times.items():
        if name != "older" or deleted == {"older"}:
            lakes.add_trades(lake, [trade(1, trade_id=name, timestamp=at)])
    code, _, _ = run(capsys, "delete", *options, "--apply")
    remaining = set(lake.trades().scan().to_arrow()["trade_id"].to_pylist())
    assert (code, remaining) == (0, {*times} - deleted - ({"older"} - deleted))


_WRONG = (
    ("delete",),
    ("delete", "--exchange", "E"),
    ("delete", "--from", "x"),
    ("delete", "--from", "0001-01-01T00:00+14:00"),
    ("delete", "--to", "9999-12-31T23:00-10:00"),
)


def test_the_commands(
    tmp_path: Path, write_csv: WriteCsv, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands are dry runs without `--apply`. Wrong use exits with 2, and a refused file with 1."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    lake = lakes.open_lake(tmp_path)
    ingest(lake, [write_csv(TWO_MARKETS)], workspace=tmp_path / "work")
    market = ("--exchange", "E", "--symbol", "S")
    code, out, _ = run(capsys, "delete", *market, "--id", "1", "--id", "2")
    assert (code, len(stored_trades(lake))) == (0, 80)
    assert "Trades: 2 removed, 0 added." in out
    assert "dry run" in out
    assert "E S 2024-08-08T13:00:00+00:00,2.00000000,1.00000000,1" in out
    code, out, _ = run(
        capsys, "delete", *market, "--from", "2024-08-09", "--reason", "test", "--apply", "--json"
    )
    assert (code, len(stored_trades(lake))) == (0, 80 - 28)
    shown = json.loads(out)
    assert (shown["applied"], shown["removed"], shown["files_rewritten"]) == (True, 28, 2)
    assert [(day["day"], day["removed"], day["added"]) for day in shown["days"]] == [
        ("2024-08-09", 24, 0),
        ("2024-08-10", 4, 0),
    ]
    code, out, _ = run(capsys, "replace", str(write_csv([trade(1), trade(3)])), "--apply")
    assert (code, len(stored_trades(lake))) == (0, 80 - 28 - 1)
    for arguments in _WRONG:
        code, _, err = run(capsys, *arguments)
        assert (code, "error" in err) == (2, True)
    code, _, err = run(capsys, "replace", str(write_csv([], "x\n")))
    assert code == 1

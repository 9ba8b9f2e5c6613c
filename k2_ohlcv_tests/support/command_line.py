"""Runs of the command line, in this process or in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k2_ohlcv.cli import main

ROOT = Path(__file__).parents[2]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process. Returns exit code, stdout and stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main.main([*arguments])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "k2_ohlcv.cli.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def write_trades_csv(folder: Path, *rows: str) -> Path:
    """Write a CSV file of trades: timestamp, price, quantity, trade_id."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "trades.csv"
    file.write_text("\n".join(["timestamp,price,quantity,trade_id", *rows, ""]))
    return file

"""Rows that the reader of landing files gives: trades and rejected rows."""

from pathlib import Path
from typing import Any

from k2_ohlcv.sources.reader import read_file

Rows = list[dict[str, Any]]


def read_rows(path: Path, **options: Any) -> tuple[Rows, Rows]:
    """The trades and the rejected rows of a file, of market S on exchange E if no other is given."""
    batches = list(read_file(path, **({"exchange": "E", "symbol": "S"} | options)))
    trades = [row for batch in batches for row in batch.trades.to_pylist()]
    return trades, [row for batch in batches for row in batch.rejected.to_pylist()]

"""What ingestion stored, rejected and counted, and a short way to ingest rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.ingest import IngestReport, ingest
from k2_ohlcv_tests.support import lakes

IngestFiles = Callable[..., IngestReport]


#: 2024-08-08 23:54:15 UTC in seconds, shortly before a midnight.
START = 1723161255
#: 2024-08-08 00:00 UTC in seconds.
MIDNIGHT = 1723075200


CSV_HEADER = "timestamp,price,quantity,trade_id\n"


def read_columns(lake: Lake, *columns: str) -> list[tuple[Any, ...]]:
    """The stored trades as sorted tuples of columns."""
    columns = columns or ("trade_id", "timestamp", "price", "quantity")
    rows = lake.trades().scan(selected_fields=columns).to_arrow().to_pylist()
    return sorted(tuple(row[c] for c in columns) for row in rows)


def read_rejected(lake: Lake) -> list[dict[str, Any]]:
    return sorted(lake.rejected().scan().to_arrow().to_pylist(), key=lambda row: (row["source"], row["line"]))


def outcomes(report: IngestReport) -> tuple[int, int, int, int]:
    """Added, duplicate, conflicting and rejected rows of a report."""
    return report.added, report.duplicates, report.conflicts, report.rejected


AddIds = Callable[..., int]


def read_ids(lake: Lake) -> list[int]:
    """The stored trade ids as numbers."""
    return sorted(int(i) for i in lake.trades().scan().to_arrow()["trade_id"].to_pylist())


def count_files(lake: Lake) -> int:
    return sum(path.endswith(".parquet") for path in lakes.files_of(lake.trades()))


def snapshot_ids(lake: Lake) -> list[int]:
    """The snapshots of the trades table, oldest first."""
    return [s.snapshot_id for s in sorted(lake.trades().snapshots(), key=lambda s: s.sequence_number or 0)]


DAY_SECONDS = 86_400


PriceRows = list[tuple[int, int, str]]


def ingest_rows(lake: Lake, folder: Path, rows: PriceRows, symbol: str = "S", **options: Any) -> IngestReport:
    """Ingest rows of time, price and id as one file."""
    path = folder / f"{uuid4()}.csv"
    path.write_text(CSV_HEADER + "".join(f"{t},{p},1,{i}\n" for t, p, i in rows))
    return ingest(lake, [path], exchange="E", symbol=symbol, workspace=folder / "work", **options)

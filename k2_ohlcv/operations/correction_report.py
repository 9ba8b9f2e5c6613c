"""The report of a correction of trades. `delete_trades` and `replace_trades` fill the report."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import polars as pl
import pyarrow as pa

from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN

#: The maximum number of sample rows in a report.
MAX_SAMPLE_ROWS = 5


@dataclass
class CorrectionReport:
    """The changes of a correction, applied or planned.

    Attributes:
        applied: whether the correction was applied.
        removed: the number of removed trades.
        added: the number of added trades.
        unchanged: the number of trades of the file that are already stored (replace only).
        rejected: the number of invalid rows and conflicts of the file (replace only).
        removed_per_day: removed trades by exchange, symbol and UTC day.
        added_per_day: added trades by exchange, symbol and UTC day.
        first_removed: the first removed trades as text.
        first_added: the first added trades as text.
        files: the number of rewritten data files.
        snapshot: the new snapshot of the trades table; None without a commit.
    """

    applied: bool
    removed: int = 0
    added: int = 0
    unchanged: int = 0
    rejected: int = 0
    removed_per_day: Counter[tuple[str, str, date]] = field(default_factory=Counter)
    added_per_day: Counter[tuple[str, str, date]] = field(default_factory=Counter)
    first_removed: list[str] = field(default_factory=list)
    first_added: list[str] = field(default_factory=list)
    files: int = 0
    snapshot: int | None = None

    def count_removed(self, rows: pa.Table) -> None:
        """Count removed trades, given in the table's columns."""
        self.removed += rows.num_rows
        _count_days(self.removed_per_day, self.first_removed, rows)

    def count_added(self, rows: pa.Table) -> None:
        """Count added trades, given in the table's columns."""
        self.added += rows.num_rows
        _count_days(self.added_per_day, self.first_added, rows)

    def as_json(self) -> dict[str, object]:
        """Return the report as one JSON object."""
        return {
            "applied": self.applied,
            "removed": self.removed,
            "added": self.added,
            "unchanged": self.unchanged,
            "rejected": self.rejected,
            "files_rewritten": self.files,
            "snapshot": self.snapshot,
            "first_removed": self.first_removed,
            "first_added": self.first_added,
            "days": [
                {
                    "exchange": exchange,
                    "symbol": symbol,
                    "day": day.isoformat(),
                    "removed": self.removed_per_day[exchange, symbol, day],
                    "added": self.added_per_day[exchange, symbol, day],
                }
                for exchange, symbol, day in sorted(self.removed_per_day | self.added_per_day)
            ],
        }


def _count_days(days: Counter[tuple[str, str, date]], samples: list[str], rows: pa.Table) -> None:
    """Add rows to the counts by day, and the first rows to the samples."""
    if not rows.num_rows:
        return
    frame = pl.DataFrame(rows.select(["exchange", "symbol", TRADE_TIME_COLUMN]))
    for *key, count in (
        frame.group_by("exchange", "symbol", pl.col(TRADE_TIME_COLUMN).dt.date()).len().iter_rows()
    ):
        days[key[0], key[1], key[2]] += count
    for row in rows.slice(0, max(0, MAX_SAMPLE_ROWS - len(samples))).to_pylist():
        samples.append(f"{row['exchange']} {row['symbol']} {raw_text(row)}")


def raw_text(row: dict[str, object]) -> str:
    """Format a trade as a line of a generic landing file: timestamp, price, quantity, trade_id."""
    moment = row[TRADE_TIME_COLUMN]
    assert isinstance(moment, datetime)
    return f"{moment.astimezone(UTC).isoformat()},{row['price']},{row['quantity']},{row['trade_id']}"

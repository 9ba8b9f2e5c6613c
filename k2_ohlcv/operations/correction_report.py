"""What a correction of trades did, or would do."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import polars as pl
import pyarrow as pa

from k2_ohlcv.lake.metadata.files import TRADE_TIME_COLUMN

#: Rows that a report shows.
MAX_SAMPLE_ROWS = 5


@dataclass
class CorrectionReport:
    """What a correction did or, where it was not applied, would do.

    Attributes:
        applied: whether it was done.
        removed: trades that go.
        added: trades that come.
        unchanged: trades of the file that are stored already (replace only).
        rejected: rows of the file that cannot be trades, or whose id came before (replace only).
        removed_per_day: trades that go, by exchange, symbol and UTC day.
        added_per_day: trades that come, likewise.
        first_removed: the first few that go, as text.
        first_added: the first few that come.
        files: data files that are rewritten.
        snapshot: the snapshot of trades that it made; None where it made none.
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
        """Count trades that go, in the table's columns."""
        self.removed += rows.num_rows
        _count_days(self.removed_per_day, self.first_removed, rows)

    def count_added(self, rows: pa.Table) -> None:
        """Count trades that come, likewise."""
        self.added += rows.num_rows
        _count_days(self.added_per_day, self.first_added, rows)

    def as_json(self) -> dict[str, object]:
        """The report as one JSON object."""
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


def _count_days(days: Counter[tuple[str, str, date]], shown: list[str], rows: pa.Table) -> None:
    if not rows.num_rows:
        return
    frame = pl.DataFrame(rows.select(["exchange", "symbol", TRADE_TIME_COLUMN]))
    for *key, count in (
        frame.group_by("exchange", "symbol", pl.col(TRADE_TIME_COLUMN).dt.date()).len().iter_rows()
    ):
        days[key[0], key[1], key[2]] += count
    for row in rows.slice(0, max(0, MAX_SAMPLE_ROWS - len(shown))).to_pylist():
        shown.append(f"{row['exchange']} {row['symbol']} {raw_text(row)}")


def raw_text(row: dict[str, object]) -> str:
    """A trade as the plain table of landing files has it: timestamp, price, quantity, trade_id."""
    moment = row[TRADE_TIME_COLUMN]
    assert isinstance(moment, datetime)
    return f"{moment.astimezone(UTC).isoformat()},{row['price']},{row['quantity']},{row['trade_id']}"

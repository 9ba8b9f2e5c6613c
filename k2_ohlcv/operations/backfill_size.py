"""Measures how large the runs of a backfill may be, and keeps the result in a file.

Dagster fixes the size when it loads the definitions. Loading reads only the file, so it never waits for the
lake. How many partitions make a run is in `domain.run_size`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pyiceberg.table import Table

from k2_ohlcv.domain.run_size import partitions_per_run
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.row_estimates import RowsPerDay

_FILE = "backfill.json"
#: The share by which the number of trades has to change before all files are listed again.
_CHANGE = 0.1


@dataclass(frozen=True)
class BackfillSize:
    """The measured size of a backfill's runs.

    Attributes:
        trades: the number of trades in the table when it was measured.
        days: the days of one run of a table with daily partitions.
        months: the months of one run of a table with monthly partitions.
    """

    trades: int
    days: int
    months: int

    def partitions(self, grain: Grain) -> int:
        """The partitions of one run."""
        return self.days if grain is Grain.DAY else self.months

    @classmethod
    def measure(cls, trades: Table) -> "BackfillSize | None":
        """Measure the size by the rows and spans of the files of trades; None without trades."""
        files = live_files(trades, trades.metadata.current_snapshot_id)
        rows = RowsPerDay([f for f in files if not f.has_only_impossible_times])
        days = rows.per_partition(Grain.DAY)
        if not days:
            return None
        months = rows.per_partition(Grain.MONTH)
        return cls(round(sum(days)), partitions_per_run(days), partitions_per_run(months))

    @classmethod
    def load(cls, folder: Path) -> "BackfillSize | None":
        """Read the last measurement; None if there is none that can be read."""
        try:
            size = cls(**json.loads((folder / _FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        is_valid = all(isinstance(value, int) and value > 0 for value in asdict(size).values())
        return size if is_valid else None

    def save(self, folder: Path) -> None:
        """Write the measurement. A reader sees the old one or the new one."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{_FILE}.part"
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(folder / _FILE)


def update_backfill_size(trades: Table, folder: Path) -> BackfillSize | None:
    """Measure again if the number of trades has changed by a tenth. Returns the new size, or None.

    Args:
        trades: the trades table.
        folder: where the measurement is kept.
    """
    stored, rows = BackfillSize.load(folder), _total_rows(trades)
    if rows == 0 or (stored and (rows is None or abs(rows - stored.trades) <= _CHANGE * stored.trades)):
        return None
    size = BackfillSize.measure(trades)
    if size is not None:
        size.save(folder)
    return size


def _total_rows(trades: Table) -> int | None:
    """The rows of the table by its current snapshot; None if the snapshot does not tell them."""
    snapshot = trades.current_snapshot()
    if snapshot is None:
        return 0
    total = snapshot.summary.get("total-records") if snapshot.summary else None
    return int(total) if total is not None else None

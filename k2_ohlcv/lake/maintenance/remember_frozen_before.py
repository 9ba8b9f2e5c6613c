"""Has candle tables remember the frozen line of our trades, in the retention run that moved it.

A refresh copies the line too, but an up-to-date table may see none for long. A trades table that is created
anew in between has no line, and its candles would be removed as candles without trades.
"""

from collections.abc import Callable
from datetime import datetime

from pyiceberg.table import Table

from k2_ohlcv.lake.commit import TableCommit, commit_with_retry
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE, bound_property_update
from k2_ohlcv.lake.watermark import carry_over_summary


def remember_frozen_before(load: Callable[[], Table], line: datetime) -> None:
    """Move the frozen line of a candle table forward to that of the trades.

    A table without a snapshot has no candles to protect, and is left as it is.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    table = load()
    if table.current_snapshot() is None or not bound_property_update(table, FROZEN_BEFORE, line):
        return

    def change(candles: Table) -> TableCommit:
        return TableCommit(
            properties=bound_property_update(candles, FROZEN_BEFORE, line),
            summary=carry_over_summary(candles),
        )

    commit_with_retry(load, change)

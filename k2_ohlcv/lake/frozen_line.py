"""Has candle tables remember the frozen line of our trades, in the retention run that moved it.

A refresh copies the line too, but an up-to-date table may see none for long. A trades table that is created
anew in between has no line, and its candles would be removed as candles without trades.
"""

from collections.abc import Callable
from datetime import datetime

from pyiceberg.table import Table

from k2_ohlcv.lake.commit import Change, commit_with_retry
from k2_ohlcv.lake.lines import FROZEN, moved_to
from k2_ohlcv.lake.watermark import carried


def remember_frozen_line(load: Callable[[], Table], line: datetime) -> None:
    """Move the frozen line of a candle table forward to that of the trades.

    A table without a snapshot has no candles to protect, and is left as it is.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    table = load()
    if table.current_snapshot() is None or not moved_to(table, FROZEN, line):
        return

    def change(candles: Table) -> Change:
        return Change(properties=moved_to(candles, FROZEN, line), summary=carried(candles))

    commit_with_retry(load, change)

"""Copies `frozen_before` of the project's trades to candle tables, in the retention run that moved it.

A refresh copies the bound too, but an up-to-date table may have no refresh for a long time. If the
trades table is created again meanwhile, it has no bound. A refresh would then remove frozen candles, because
they have no trades. Reading the bounds is in `history_bounds`.
"""

from collections.abc import Callable
from datetime import datetime

from pyiceberg.table import Table

from k2_ohlcv.lake.commit import TableCommit, commit_with_retry
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE, bound_property_update
from k2_ohlcv.lake.watermark import carry_over_summary


def remember_frozen_before(load: Callable[[], Table], bound: datetime) -> None:
    """Move `frozen_before` of a candle table forward to the bound of the trades.

    A table without a snapshot has no candles and is not changed.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    table = load()
    if table.current_snapshot() is None or not bound_property_update(table, FROZEN_BEFORE, bound):
        return

    def build_commit(candles: Table) -> TableCommit:
        return TableCommit(
            properties=bound_property_update(candles, FROZEN_BEFORE, bound),
            summary=carry_over_summary(candles),
        )

    commit_with_retry(load, build_commit)

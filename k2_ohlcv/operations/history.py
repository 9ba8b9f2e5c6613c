"""The history bounds `frozen_before` and `expired_before`: show them, or move one back.

Retention moves the bounds forward. A person moves a bound back here. The watermark then has the windows
between the two bounds as open. The next refresh makes these windows equal to the trades.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import Interval, intersect_all
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import TableCommit, commit_with_retry
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FREEZING_BEFORE, FROZEN_BEFORE, read_bound
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.trades import protected_snapshots
from k2_ohlcv.lake.watermark import Watermark


@dataclass(frozen=True)
class BoundMove:
    """A history bound of one table, with its move.

    Attributes:
        table: the name of the table.
        bound: `frozen` for `frozen_before`, `expired` for `expired_before`.
        before: the current bound; None without a bound.
        after: the new bound; None without a move.
        candles: the maximum number of candles between the two bounds.
        trades: the maximum number of trades between the two bounds.
    """

    table: str
    bound: str
    before: datetime | None
    after: datetime | None = None
    candles: int = 0
    trades: int = 0

    def as_json(self) -> dict[str, object]:
        """Return the move as one JSON object."""
        return {
            "table": self.table,
            "line": self.bound,
            "before": self.before.isoformat() if self.before else None,
            "after": self.after.isoformat() if self.after else None,
            "candles": self.candles,
            "trades": self.trades,
        }


def read_bounds(lake: Lake) -> list[BoundMove]:
    """Read the history bounds of all tables."""
    bounds = [_read_bound_of(lake.trades(), FROZEN_BEFORE)] if lake.has_own_trades else []
    for timeframe in TIMEFRAMES:
        candles = lake.candles(timeframe)
        bounds += [_read_bound_of(candles, FROZEN_BEFORE), _read_bound_of(candles, EXPIRED_BEFORE)]
    return bounds


def move_frozen_before(lake: Lake, to: datetime, *, apply: bool) -> list[BoundMove]:
    """Move `frozen_before` back, in the trades table and in every candle table.

    The next refresh deletes candles between the two bounds whose trades have expired.

    Raises:
        UsageError: no table has a bound after `to`.
        CommitConflictError: other writers won every attempt.
    """
    moves: list[BoundMove] = []
    # The trades table first: a refresh copies its bound to the candle tables.
    if lake.has_own_trades and _is_moved_back(trades := lake.trades(), FROZEN_BEFORE, to):
        moves.append(replace(_read_bound_of(trades, FROZEN_BEFORE), after=to))
        if apply:
            commit_with_retry(lake.writable_trades, lambda table: _trades_commit(lake, table, to))
    for timeframe in TIMEFRAMES:
        moves += _move_candles(lake, timeframe, FROZEN_BEFORE, to, apply=apply)
    return _check_any_move(moves, "frozen", to)


def move_expired_before(
    lake: Lake, to: datetime, timeframes: Sequence[Timeframe], *, apply: bool
) -> list[BoundMove]:
    """Move `expired_before` back, in some candle tables.

    The next refresh computes the candles between the two bounds again, if their trades still exist.

    Raises:
        UsageError: no table has a bound after `to`.
        CommitConflictError: other writers won every attempt.
    """
    moves = [m for t in timeframes for m in _move_candles(lake, t, EXPIRED_BEFORE, to, apply=apply)]
    return _check_any_move(moves, "expired", to)


def _check_any_move(moves: list[BoundMove], bound: str, to: datetime) -> list[BoundMove]:
    """Raise an error without any move, else return the moves."""
    if not moves:
        raise UsageError(f"no table has {bound}_before after {to:%Y-%m-%d}: there is nothing to move back")
    return moves


def _move_candles(
    lake: Lake, timeframe: Timeframe, key: str, to: datetime, *, apply: bool
) -> list[BoundMove]:
    """Move the bound with this property key in a candle table, if the bound is after `to`."""
    candles = lake.candles(timeframe)
    if not _is_moved_back(candles, key, to):
        return []
    trades = lake.trades()
    old = read_bound(candles, key)
    assert old is not None
    between = Interval(to, old)
    move = replace(
        _read_bound_of(candles, key),
        after=to,
        candles=_rows_between(candles, between),
        trades=_rows_between(trades, between),
    )
    if apply:
        commit_with_retry(
            lambda: lake.candles(timeframe), lambda table: _candles_commit(table, trades, timeframe, key, to)
        )
    return [move]


def _trades_commit(lake: Lake, trades: Table, to: datetime) -> TableCommit:
    """Build the commit that moves `frozen_before` of the trades table."""
    return TableCommit(
        properties={FROZEN_BEFORE: to.isoformat()}, protected=frozenset(protected_snapshots(lake, trades))
    )


def _candles_commit(
    candles: Table, trades: Table, timeframe: Timeframe, key: str, to: datetime
) -> TableCommit:
    """Build the commit that moves a bound of a candle table and opens the windows between the bounds."""
    old, mark = read_bound(candles, key), Watermark.from_table(candles)
    properties = {key: to.isoformat()}
    if key == FROZEN_BEFORE and candles.properties.get(FREEZING_BEFORE):
        properties[FREEZING_BEFORE] = ""  # an announcement of an earlier trades table ends with the bound
    if mark is None or old is None or old <= to:
        return TableCommit(properties=properties)
    files = live_files(candles, candles.metadata.current_snapshot_id)
    spans = [*trades_spans(trades, trades.metadata.current_snapshot_id), *(f.span for f in files)]
    windows = timeframe.align(intersect_all(timeframe.grain.partitions(spans), [Interval(to, old)]))
    return TableCommit(properties=properties, summary=mark.with_open(windows).summary())


def _read_bound_of(table: Table, key: str) -> BoundMove:
    bound = "frozen" if key == FROZEN_BEFORE else "expired"
    return BoundMove(table.name()[-1], bound, read_bound(table, key))


def _is_moved_back(table: Table, key: str, to: datetime) -> bool:
    """Whether a bound of a table is after `to`."""
    current = read_bound(table, key)
    return not isinstance(table, MissingTable) and current is not None and current > to


def _rows_between(table: Table, between: Interval) -> int:
    """Count the rows of the files that overlap an interval."""
    files = live_files(table, table.metadata.current_snapshot_id)
    return sum(f.file.record_count for f in files if not f.is_delete and f.span.intersect(between))

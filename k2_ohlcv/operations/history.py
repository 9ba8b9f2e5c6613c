"""Where history begins: the lines of retention, and moving one back on purpose. A dry run by default.

Retention moves the lines forward. What lies between the new and the old line is open afterwards: the next
refresh makes it equal to the trades that are there.
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
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE, read_bound
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.metadata.snapshot_diff import trades_spans
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.trades import protected_snapshots
from k2_ohlcv.lake.watermark import Watermark


@dataclass(frozen=True)
class BoundMove:
    """A line of one table, and where it moves.

    Attributes:
        table: the name of the table.
        bound: `frozen` or `expired`.
        before: where the line is; None where there is none.
        after: where it moves; None where it stays.
        candles: at most so many candles lie between the two.
        trades: at most so many trades lie between the two.
    """

    table: str
    bound: str
    before: datetime | None
    after: datetime | None = None
    candles: int = 0
    trades: int = 0

    def as_json(self) -> dict[str, object]:
        """The move as one JSON object."""
        return {
            "table": self.table,
            "line": self.bound,
            "before": self.before.isoformat() if self.before else None,
            "after": self.after.isoformat() if self.after else None,
            "candles": self.candles,
            "trades": self.trades,
        }


def read_bounds(lake: Lake) -> list[BoundMove]:
    """The lines of all tables as they are."""
    found = [] if not lake.has_own_trades else [_bound_of(lake.trades(), FROZEN_BEFORE)]
    for timeframe in TIMEFRAMES:
        candles = lake.candles(timeframe)
        found += [_bound_of(candles, FROZEN_BEFORE), _bound_of(candles, EXPIRED_BEFORE)]
    return found


def move_frozen_before(lake: Lake, to: datetime, *, apply: bool) -> list[BoundMove]:
    """Move the line before which candles are frozen back, in the trades and in every candle table.

    Candles between the two lines whose trades are gone are removed by the next refresh.

    Raises:
        UsageError: no table has a line after `to`.
        CommitConflictError: other writers won every attempt.
    """
    moves: list[BoundMove] = []
    # The trades first: a refresh in between would remember their line in the candle tables again.
    if lake.has_own_trades and _check_moves_back(trades := lake.trades(), FROZEN_BEFORE, to):
        moves.append(replace(_bound_of(trades, FROZEN_BEFORE), after=to))
        if apply:
            commit_with_retry(lake.writable_trades, lambda table: _trades_commit(lake, table, to))
    for timeframe in TIMEFRAMES:
        moves += _move_candles(lake, timeframe, FROZEN_BEFORE, to, apply=apply)
    return _check_any_move(moves, "frozen", to)


def move_expired_before(
    lake: Lake, to: datetime, timeframes: Sequence[Timeframe], *, apply: bool
) -> list[BoundMove]:
    """Move the line before which candles have been dropped back, in some candle tables.

    The next refresh computes the candles between the two lines again, where their trades are there.

    Raises:
        UsageError: no table has a line after `to`.
        CommitConflictError: other writers won every attempt.
    """
    moves = [m for t in timeframes for m in _move_candles(lake, t, EXPIRED_BEFORE, to, apply=apply)]
    return _check_any_move(moves, "expired", to)


def _check_any_move(moves: list[BoundMove], line: str, to: datetime) -> list[BoundMove]:
    if not moves:
        raise UsageError(f"no table has its {line} line after {to:%Y-%m-%d}: there is nothing to move back")
    return moves


def _move_candles(
    lake: Lake, timeframe: Timeframe, line: str, to: datetime, *, apply: bool
) -> list[BoundMove]:
    candles = lake.candles(timeframe)
    if not _check_moves_back(candles, line, to):
        return []
    trades = lake.trades()
    old = read_bound(candles, line)
    assert old is not None
    between = Interval(to, old)
    move = replace(
        _bound_of(candles, line),
        after=to,
        candles=_rows_between(candles, between),
        trades=_rows_between(trades, between),
    )
    if apply:
        commit_with_retry(
            lambda: lake.candles(timeframe), lambda table: _candles_commit(table, trades, timeframe, line, to)
        )
    return [move]


def _trades_commit(lake: Lake, trades: Table, to: datetime) -> TableCommit:
    """The commit that moves the line of the trades."""
    return TableCommit(
        properties={FROZEN_BEFORE: to.isoformat()}, protected=frozenset(protected_snapshots(lake, trades))
    )


def _candles_commit(
    candles: Table, trades: Table, timeframe: Timeframe, line: str, to: datetime
) -> TableCommit:
    """The commit that moves a line of a candle table and opens what lies between the two."""
    old, mark = read_bound(candles, line), Watermark.from_table(candles)
    properties = {line: to.isoformat()}
    if mark is None or old is None or old <= to:
        return TableCommit(properties=properties)
    files = live_files(candles, candles.metadata.current_snapshot_id)
    held = [*trades_spans(trades, trades.metadata.current_snapshot_id), *(f.span for f in files)]
    opened = timeframe.align(intersect_all(timeframe.grain.partitions(held), [Interval(to, old)]))
    return TableCommit(properties=properties, summary=mark.with_open(opened).summary())


def _bound_of(table: Table, line: str) -> BoundMove:
    return BoundMove(
        table.name()[-1], "frozen" if line == FROZEN_BEFORE else "expired", read_bound(table, line)
    )


def _check_moves_back(table: Table, line: str, to: datetime) -> bool:
    current = read_bound(table, line)
    return not isinstance(table, MissingTable) and current is not None and current > to


def _rows_between(table: Table, between: Interval) -> int:
    files = live_files(table, table.metadata.current_snapshot_id)
    return sum(f.file.record_count for f in files if not f.is_delete and f.span.intersect(between))

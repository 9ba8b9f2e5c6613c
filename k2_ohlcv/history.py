"""Where history begins: the lines of retention, and moving one back on purpose. A dry run by default.

Retention moves the lines forward. What lies between the new and the old line is open afterwards: the next
refresh makes it equal to the trades that are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.domain.window import Interval, intersect_all
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.changes import trades_spans
from k2_ohlcv.lake.commit import Change, commit_with_retry
from k2_ohlcv.lake.files import live_files
from k2_ohlcv.lake.lines import EXPIRED, FROZEN, line_of
from k2_ohlcv.lake.missing import MissingTable
from k2_ohlcv.lake.trades import needed
from k2_ohlcv.lake.watermark import Watermark


@dataclass(frozen=True)
class LineMove:
    """A line of one table, and where it moves.

    Attributes:
        table: the name of the table.
        line: `frozen` or `expired`.
        before: where the line is; None where there is none.
        after: where it moves; None where it stays.
        candles: at most so many candles lie between the two.
        trades: at most so many trades lie between the two.
    """

    table: str
    line: str
    before: datetime | None
    after: datetime | None = None
    candles: int = 0
    trades: int = 0

    def as_json(self) -> dict[str, object]:
        """The move as one JSON object."""
        return {
            "table": self.table,
            "line": self.line,
            "before": self.before.isoformat() if self.before else None,
            "after": self.after.isoformat() if self.after else None,
            "candles": self.candles,
            "trades": self.trades,
        }


def read_lines(lake: Lake) -> list[LineMove]:
    """The lines of all tables as they are."""
    found = [] if not lake.owns_trades else [_line(lake.trades(), FROZEN)]
    for timeframe in TIMEFRAMES:
        candles = lake.candles(timeframe)
        found += [_line(candles, FROZEN), _line(candles, EXPIRED)]
    return found


def move_frozen_line(lake: Lake, to: datetime, *, apply: bool) -> list[LineMove]:
    """Move the line before which candles are frozen back, in the trades and in every candle table.

    Candles between the two lines whose trades are gone are removed by the next refresh.

    Raises:
        UsageError: no table has a line after `to`.
        CommitConflictError: other writers won every attempt.
    """
    moves: list[LineMove] = []
    # The trades first: a refresh in between would remember their line in the candle tables again.
    if lake.owns_trades and _is_after(trades := lake.trades(), FROZEN, to):
        moves.append(replace(_line(trades, FROZEN), after=to))
        if apply:
            commit_with_retry(lake.trades_to_write, lambda table: _moved(lake, table, to))
    for timeframe in TIMEFRAMES:
        moves += _move_candles(lake, timeframe, FROZEN, to, apply=apply)
    return _rejecting_nothing(moves, "frozen", to)


def move_expired_line(
    lake: Lake, to: datetime, timeframes: Sequence[Timeframe], *, apply: bool
) -> list[LineMove]:
    """Move the line before which candles have been dropped back, in some candle tables.

    The next refresh computes the candles between the two lines again, where their trades are there.

    Raises:
        UsageError: no table has a line after `to`.
        CommitConflictError: other writers won every attempt.
    """
    moves = [m for t in timeframes for m in _move_candles(lake, t, EXPIRED, to, apply=apply)]
    return _rejecting_nothing(moves, "expired", to)


def _rejecting_nothing(moves: list[LineMove], line: str, to: datetime) -> list[LineMove]:
    if not moves:
        raise UsageError(f"no table has its {line} line after {to:%Y-%m-%d}: there is nothing to move back")
    return moves


def _move_candles(
    lake: Lake, timeframe: Timeframe, line: str, to: datetime, *, apply: bool
) -> list[LineMove]:
    candles = lake.candles(timeframe)
    if not _is_after(candles, line, to):
        return []
    trades = lake.trades()
    old = line_of(candles, line)
    assert old is not None
    between = Interval(to, old)
    move = replace(
        _line(candles, line),
        after=to,
        candles=_rows(candles, between),
        trades=_rows(trades, between),
    )
    if apply:
        commit_with_retry(
            lambda: lake.candles(timeframe), lambda table: _opened(table, trades, timeframe, line, to)
        )
    return [move]


def _moved(lake: Lake, trades: Table, to: datetime) -> Change:
    """The commit that moves the line of the trades."""
    return Change(properties={FROZEN: to.isoformat()}, protected=frozenset(needed(lake, trades)))


def _opened(candles: Table, trades: Table, timeframe: Timeframe, line: str, to: datetime) -> Change:
    """The commit that moves a line of a candle table and opens what lies between the two."""
    old, mark = line_of(candles, line), Watermark.of(candles)
    properties = {line: to.isoformat()}
    if mark is None or old is None or old <= to:
        return Change(properties=properties)
    files = live_files(candles, candles.metadata.current_snapshot_id)
    held = [*trades_spans(trades, trades.metadata.current_snapshot_id), *(f.span for f in files)]
    opened = timeframe.align(intersect_all(timeframe.grain.partitions(held), [Interval(to, old)]))
    return Change(properties=properties, summary=mark.opening(opened).summary())


def _line(table: Table, line: str) -> LineMove:
    return LineMove(table.name()[-1], "frozen" if line == FROZEN else "expired", line_of(table, line))


def _is_after(table: Table, line: str, to: datetime) -> bool:
    current = line_of(table, line)
    return not isinstance(table, MissingTable) and current is not None and current > to


def _rows(table: Table, between: Interval) -> int:
    files = live_files(table, table.metadata.current_snapshot_id)
    return sum(f.file.record_count for f in files if not f.is_delete and f.span.intersect(between))

"""What a candle table lacks to be equal to the trades as they are now, from metadata alone.

Joins the watermark of the candles with the changes of the trades since. Which windows to recompute is decided
in `plan`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from pyiceberg.table import Table

from k2_ohlcv.domain.errors import MissingTradesError
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.domain.trading_times import trading_times
from k2_ohlcv.domain.window import Interval, coalesce, intersect_all
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.changes import Changes, changes, trades_spans
from k2_ohlcv.lake.fingerprint import describe_difference, fingerprint
from k2_ohlcv.lake.lines import FIRST, frozen_before
from k2_ohlcv.lake.missing import MissingTable
from k2_ohlcv.lake.watermark import Watermark, why_unknown


@dataclass(frozen=True)
class OpenWork:
    """Where a candle table may differ from the trades as they are now.

    Attributes:
        mark: the watermark of the table; None where it has none or the trades are read in another way now.
        current: the current trades snapshot; None where trades have none.
        fingerprint: of the trades as they are read now.
        changes: the trades files in which the two snapshots differ.
        reason: why everything may differ, in words; None where it is known what may.
        is_mirrored: whether the properties of the candle table repeat the watermark.
    """

    mark: Watermark | None
    current: int | None
    fingerprint: str
    changes: Changes
    reason: str | None
    is_mirrored: bool = True

    @classmethod
    def of(cls, candles: Table, trades: Table) -> "OpenWork":
        """Compare two loaded tables; load the candles first."""
        current, read = trades.metadata.current_snapshot_id, fingerprint(trades)
        mark = Watermark.of(candles)
        if mark is None:
            return cls(None, current, read, Changes(), why_unknown(candles))
        if other := describe_difference(mark.fingerprint, read):
            return cls(None, current, read, Changes(), other)
        if current is None:
            return cls(mark, current, read, Changes(), "there are no trades")
        mark = _with_thawed(_with_possible(mark, trades), candles, trades)
        found = changes(trades, mark.snapshot_id, current)
        return cls(mark, current, read, found, found.reason, mark.is_mirrored(candles))

    @property
    def open(self) -> tuple[Interval, ...]:
        """Intervals that were open already at the snapshot of the watermark."""
        return self.mark.open if self.mark else ()

    @property
    def bounds(self) -> list[Interval]:
        """Where anything may differ, by the bounds of the files. Only where no `reason` says everywhere."""
        return coalesce([*self.changes.bounds, *self.open])

    @property
    def is_done(self) -> bool:
        """Whether the whole table is equal to the trades as they are now."""
        mark = self.mark
        is_equal = mark is not None and mark.snapshot_id == self.current and mark.is_complete
        return is_equal and self.is_mirrored


def _with_possible(mark: Watermark, trades: Table) -> Watermark:
    """The watermark with those times open that were impossible when it was made, and have come since.

    Only rows of another writer lie so far ahead of the clock, and mostly there are none.
    """
    end = trading_times().end
    is_known = trades.metadata.snapshot_by_id(mark.snapshot_id) is not None
    if mark.until is None or mark.until >= end or not is_known:
        return mark
    come = intersect_all(trades_spans(trades, mark.snapshot_id), [Interval(mark.until, end)])
    return mark.opening(come) if come else mark


def _with_thawed(mark: Watermark, candles: Table, trades: Table) -> Watermark:
    """The watermark with those times open that lay behind the frozen line then, and are ahead of it now.

    Only a setting moves the line back so. Where no trades are, candles stay: they may be the only record.
    """
    now = frozen_before(candles, trades, datetime.now(UTC)) or FIRST
    if mark.frozen is None or mark.frozen <= now:
        return mark
    spans = trades_spans(trades, trades.metadata.current_snapshot_id)
    thawed = intersect_all(spans, [Interval(now, mark.frozen)])
    return mark.opening(thawed) if thawed else mark


def reject_replacing_trades(lake: Lake) -> None:
    """Refuse to create a trades table by the way, while candles say that there was another one.

    Runs of Dagster ask here: files that land while somebody renames the table must wait. A person who means
    it ingests by the command line.

    Raises:
        MissingTradesError: there is no trades table, and candles were made from one.
    """
    trades = lake.trades()
    if isinstance(trades, MissingTable):
        for timeframe in TIMEFRAMES:
            reject_missing_trades(lake.candles(timeframe), trades)


def reject_missing_trades(candles: Table, trades: Table) -> None:
    """Refuse to take missing trades for deleted ones.

    Raises:
        MissingTradesError: the candles were made from trades, and the trades table has never had any.
    """
    if trades.metadata.current_snapshot_id is not None or candles.metadata.current_snapshot_id is None:
        return
    table, source = ".".join(candles.name()), ".".join(trades.name())
    raise MissingTradesError(
        f"{source} is missing or has never had trades, but {table} was made from trades. Nothing was "
        f"changed. Bring the table back under its name {source}, or drop {table} to begin anew"
    )

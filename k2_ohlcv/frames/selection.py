"""Which windows a run reconciles: all markets in some intervals, and further windows of single markets.

Finding dirty windows is in `lake.metadata.dirty_windows`, choosing among them in `operations.planning`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.intervals import Interval, coalesce, from_micros, intersect_all
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES, is_in_intervals, window_start_of

_KEY_TYPES = {name: CANDLE_TYPES[name] for name in KEY_COLUMNS}
#: The maximum number of windows of single markets. With more, whole intervals of all markets cost less.
MAX_PAIRS = 200_000

#: Selected windows of single markets, as a share of the stored candles of their windows, from which all
#: markets are selected.
_MOST = 0.25


def no_pairs() -> pl.DataFrame:
    """No window of a single market."""
    return pl.DataFrame(schema=_KEY_TYPES)


@dataclass(frozen=True)
class WindowSelection:
    """Windows of one timeframe.

    Attributes:
        intervals: intervals of whole windows, in which all markets are selected. Disjoint, in order.
        pairs: further windows of single markets, each once, in the columns `KEY_COLUMNS`.
    """

    intervals: tuple[Interval, ...] = ()
    pairs: pl.DataFrame = field(default_factory=no_pairs)

    @classmethod
    def of(
        cls, timeframe: Timeframe, spans: Iterable[Interval], moments: pl.DataFrame | None = None
    ) -> "WindowSelection":
        """Select the windows of some spans for all markets, and those of single trades for their markets.

        Windows of trades without an exchange or symbol, or of too many trades, are selected for all markets.

        Args:
            timeframe: the timeframe of the windows.
            spans: spans of time.
            moments: the columns `exchange`, `symbol` and `micros`, the time since the epoch.
        """
        intervals = timeframe.align(spans)
        if moments is None or moments.is_empty():
            return cls(tuple(intervals))
        start = window_start_of(pl.col("micros"), timeframe)
        pairs = moments.select("exchange", "symbol", start.alias("window_start")).unique()
        pairs = pairs.select(*KEY_COLUMNS).filter(~is_in_intervals("window_start", intervals))
        is_of_all = pl.any_horizontal(pl.col("exchange", "symbol").is_null())
        if pairs.height > MAX_PAIRS:
            is_of_all = pl.lit(True)
        of_all = _windows(pairs.filter(is_of_all), timeframe)
        if of_all:
            intervals = coalesce([*intervals, *of_all])
            pairs = pairs.filter(~is_in_intervals("window_start", intervals))
        return cls(tuple(intervals), pairs.sort("window_start", *KEY_COLUMNS[:2]))

    def cover(self, timeframe: Timeframe) -> list[Interval]:
        """The intervals that have a selected window."""
        return coalesce([*self.intervals, *_windows(self.pairs, timeframe)])

    def clip(self, intervals: Sequence[Interval]) -> "WindowSelection":
        """The selected windows in some intervals of whole windows."""
        return WindowSelection(
            tuple(intersect_all(self.intervals, intervals)),
            self.pairs.filter(is_in_intervals("window_start", intervals)) if len(self.pairs) else self.pairs,
        )

    def widen(self, timeframe: Timeframe, stored: pl.DataFrame) -> "WindowSelection":
        """Select all markets if most of them are selected anyway. Computing all markets then costs less.

        Args:
            timeframe: the timeframe of the windows.
            stored: the stored candles of the windows, in which the markets are counted.
        """
        if self.pairs.is_empty():
            return self
        cover = self.cover(timeframe)
        candles = stored.filter(is_in_intervals("window_start", cover)).height
        return WindowSelection(tuple(cover)) if self.pairs.height >= candles * _MOST else self

    def filter(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows of candles whose window is selected, in the same order."""
        in_intervals = is_in_intervals("window_start", self.intervals)
        if self.pairs.is_empty():
            return rows.filter(in_intervals)
        listed = self.pairs.with_columns(pl.lit(True).alias("is_listed"))
        joined = rows.join(listed, on=KEY_COLUMNS, how="left", maintain_order="left")
        return joined.filter(in_intervals | pl.col("is_listed").is_not_null()).drop("is_listed")


def _windows(pairs: pl.DataFrame, timeframe: Timeframe) -> list[Interval]:
    """The windows of pairs, coalesced."""
    starts = pairs["window_start"].dt.epoch("us").unique().to_list()
    return coalesce(timeframe.window(from_micros(start)) for start in starts)

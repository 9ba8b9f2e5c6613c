"""Gaps: spans without a candle, of one market or of all markets, each with its reason.

A gap of a market lies between two of its candles. The time before its first candle and after its last candle
is no gap.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all, subtract
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES, MAX_SAMPLE_ROWS, is_in_intervals
from k2_ohlcv.frames.checks import Finding

#: Reasons: no trades, candles dropped (or trades too late to be computed), candles not computed yet.
NO_TRADES, EXPIRED, NOT_COMPUTED = KINDS = ("no trades then", "expired", "not computed yet")
#: Stands for exchange and symbol in a gap of all markets.
ALL_MARKETS = "*"

_FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
_KEY_TYPES = {name: CANDLE_TYPES[name] for name in KEY_COLUMNS}


class GapFinder:
    """Finds the gaps of a table that is read in parts, in order of time. Keeps `MAX_SAMPLE_ROWS` of them."""

    def __init__(
        self,
        timeframe: Timeframe,
        *,
        pending: Sequence[Interval],
        too_late: Sequence[Interval],
        expired: datetime | None,
    ) -> None:
        """Start without any rows.

        Args:
            timeframe: the timeframe of the candles.
            pending: windows that the next refresh computes.
            too_late: windows that changed before `frozen_before` or `expired_before`. No refresh computes
                these windows.
            expired: retention dropped the candles before this time; None if it dropped none.
        """
        self._timeframe = timeframe
        self._pending = pending
        self._dropped = [Interval(_FIRST_MOMENT, expired)] if expired else []
        self._too_late = too_late
        self._counts: Counter[str] = Counter()
        self._samples: list[dict[str, object]] = []
        self._examined = 0
        self._spans: list[Interval] = []
        self._candle_spans: list[Interval] = []
        self._last = pl.DataFrame(schema=_KEY_TYPES)

    def add_candles(self, stored: pl.DataFrame, spans: Sequence[Interval]) -> None:
        """Add the rows of some spans. The time between two spans that do not touch is no gap."""
        self._examined += stored.height
        for span in coalesce(spans):
            rows = stored.filter(is_in_intervals("window_start", [span])).select(KEY_COLUMNS)
            if self._spans and self._spans[-1].end == span.start:
                rows = pl.concat([self._last.select(KEY_COLUMNS), rows])
            self._spans = coalesce([*self._spans, span])
            self._last = rows.group_by("exchange", "symbol").agg(pl.col("window_start").max())
            if rows.height:
                starts = rows["window_start"].sort()
                candle_span = Interval(starts[0], starts[-1] + self._timeframe.length)
                self._candle_spans = coalesce([*self._candle_spans, candle_span])
            self._add_market_gaps(rows)

    def _add_market_gaps(self, rows: pl.DataFrame) -> None:
        """Add the gaps between consecutive candles of each market."""
        length = self._timeframe.length
        after = pl.col("window_start").shift(-1).over("exchange", "symbol", order_by="window_start")
        jumps = rows.with_columns(after.alias("next")).filter(
            pl.col("next") - pl.col("window_start") > length
        )
        columns = jumps.sort("window_start").select("exchange", "symbol", "window_start", "next")
        for exchange, symbol, start, end in columns.iter_rows():
            self._add_gap(exchange, symbol, Interval(start + length, end))

    def _add_gap(self, exchange: str, symbol: str, span: Interval) -> None:
        """Count a gap by its reason, and keep the first gaps as samples."""
        if intersect_all([span], self._pending):
            reason = NOT_COMPUTED
        else:
            expired = intersect_all([span], [*self._dropped, *self._too_late])
            reason = EXPIRED if expired else NO_TRADES
        self._counts[reason] += 1
        if len(self._samples) < MAX_SAMPLE_ROWS:
            market = {"exchange": exchange, "symbol": symbol}
            self._samples.append({**market, "start": span.start, "end": span.end, "why": reason})

    def build_finding(self) -> Finding:
        """Build the finding of all gaps.

        The gaps of all markets are dropped days, and pending days outside of the candles.
        """
        market_gaps, self._samples = self._samples, []
        dropped = intersect_all(self._spans, self._dropped)
        pending = subtract(intersect_all(self._spans, self._pending), self._candle_spans)
        for span in sorted([*dropped, *pending]):
            self._add_gap(ALL_MARKETS, ALL_MARKETS, span)
        rows = [*self._samples, *market_gaps][:MAX_SAMPLE_ROWS]
        counts = [f"{self._counts[reason]:,} {reason}" for reason in KINDS if self._counts[reason]]
        return Finding(
            "gaps",
            self._timeframe.name,
            self._examined,
            rows=pl.DataFrame(rows) if rows else None,
            note=f"spans without a candle: {', '.join(counts)}" if counts else "",
            numbers=tuple((reason, float(self._counts[reason])) for reason in KINDS),
        )

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
from k2_ohlcv.frames.candles import CANDLE_TYPES, MAX_SAMPLE_ROWS, is_in_intervals, overlaps_intervals
from k2_ohlcv.frames.checks import Finding

#: Reasons: no trades, candles dropped (or trades too late to be computed), candles not computed yet.
NO_TRADES, EXPIRED, NOT_COMPUTED = KINDS = ("no trades then", "expired", "not computed yet")
#: Stands for exchange and symbol in a gap of all markets.
ALL_MARKETS = "*"

_FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
_GAP_TYPES = {
    "exchange": pl.String(),
    "symbol": pl.String(),
    "start": CANDLE_TYPES["window_start"],
    "end": CANDLE_TYPES["window_end"],
}
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
        ordered = rows.sort(KEY_COLUMNS)
        is_same = pl.col("exchange").eq_missing(pl.col("exchange").shift(-1)) & pl.col("symbol").eq_missing(
            pl.col("symbol").shift(-1)
        )
        end = pl.when(is_same).then(pl.col("window_start").shift(-1)).alias("end")
        gaps = ordered.with_columns(end).select(
            "exchange", "symbol", (pl.col("window_start") + length).alias("start"), "end"
        )
        self._add_gaps(gaps.filter(pl.col("end") > pl.col("start")))

    def _add_gaps(self, gaps: pl.DataFrame) -> None:
        """Count gaps by their reason, and keep the first gaps as samples."""
        is_pending = overlaps_intervals("start", "end", self._pending)
        is_expired = overlaps_intervals("start", "end", [*self._dropped, *self._too_late])
        why = pl.when(is_pending).then(pl.lit(NOT_COMPUTED)).when(is_expired).then(pl.lit(EXPIRED))
        gaps = gaps.with_columns(why.otherwise(pl.lit(NO_TRADES)).alias("why"))
        self._counts.update(dict(gaps.group_by("why").len().iter_rows()))
        missing = MAX_SAMPLE_ROWS - len(self._samples)
        self._samples += (
            gaps.bottom_k(missing, by=["start", "exchange", "symbol"])
            .sort("start", "exchange", "symbol")
            .to_dicts()
            if missing > 0
            else []
        )

    def build_finding(self) -> Finding:
        """Build the finding of all gaps.

        The gaps of all markets are dropped days, and pending days outside of the candles.
        """
        market_gaps, self._samples = self._samples, []
        dropped = intersect_all(self._spans, self._dropped)
        pending = subtract(intersect_all(self._spans, self._pending), self._candle_spans)
        spans = [(ALL_MARKETS, ALL_MARKETS, span.start, span.end) for span in sorted([*dropped, *pending])]
        self._add_gaps(pl.DataFrame(spans, schema=_GAP_TYPES, orient="row"))
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

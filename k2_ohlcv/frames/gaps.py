"""Spans without a candle, and why: of one market between two candles, or of all markets.

A market that begins or ends within the days that are looked at has no gap there: nobody expects its candles.
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

#: Why there is no candle: nothing was traded, it was dropped (or its trades came too late), it is to come.
NO_TRADES, EXPIRED, NOT_COMPUTED = KINDS = ("no trades then", "expired", "not computed yet")
#: In place of an exchange and a symbol: no market has a candle there.
ALL_MARKETS = "*"

_FIRST = datetime.min.replace(tzinfo=UTC)
_TYPES = {name: CANDLE_TYPES[name] for name in KEY_COLUMNS}


class GapFinder:
    """The gaps of a table that is read in parts, from the earlier to the later; few of them are kept."""

    def __init__(
        self,
        timeframe: Timeframe,
        *,
        pending: Sequence[Interval],
        too_late: Sequence[Interval],
        expired: datetime | None,
    ) -> None:
        """Nothing looked at yet.

        Args:
            timeframe: what there are candles of.
            pending: windows that are to be computed.
            too_late: windows that changed behind a line, and are not computed any more.
            expired: candles before this were dropped.
        """
        self._timeframe = timeframe
        self._pending = pending
        self._dropped = [Interval(_FIRST, expired)] if expired else []
        self._too_late = too_late
        self._counts: Counter[str] = Counter()
        self._samples: list[dict[str, object]] = []
        self._examined = 0
        self._spans: list[Interval] = []
        self._earlier_keys: list[Interval] = []
        self._last = pl.DataFrame(schema=_TYPES)

    def add_candles(self, stored: pl.DataFrame, spans: Sequence[Interval]) -> None:
        """Take in the rows of some spans. What lies between two spans that do not touch is no gap."""
        self._examined += stored.height
        for span in coalesce(spans):
            rows = stored.filter(is_in_intervals("window_start", [span])).select(KEY_COLUMNS)
            if self._spans and self._spans[-1].end == span.start:
                rows = pl.concat([self._last.select(KEY_COLUMNS), rows])
            self._spans = coalesce([*self._spans, span])
            self._last = rows.group_by("exchange", "symbol").agg(pl.col("window_start").max())
            if rows.height:
                starts = rows["window_start"].sort()
                made = Interval(starts[0], starts[-1] + self._timeframe.length)
                self._earlier_keys = coalesce([*self._earlier_keys, made])
            self._between(rows)

    def _between(self, rows: pl.DataFrame) -> None:
        length = self._timeframe.length
        after = pl.col("window_start").shift(-1).over("exchange", "symbol", order_by="window_start")
        jumps = rows.with_columns(after.alias("next")).filter(
            pl.col("next") - pl.col("window_start") > length
        )
        columns = jumps.sort("window_start").select("exchange", "symbol", "window_start", "next")
        for exchange, symbol, start, end in columns.iter_rows():
            self._add(exchange, symbol, Interval(start + length, end))

    def _add(self, exchange: str, symbol: str, span: Interval) -> None:
        if intersect_all([span], self._pending):
            why = NOT_COMPUTED
        else:
            gone = intersect_all([span], [*self._dropped, *self._too_late])
            why = EXPIRED if gone else NO_TRADES
        self._counts[why] += 1
        if len(self._samples) < MAX_SAMPLE_ROWS:
            row = {"exchange": exchange, "symbol": symbol, "start": span.start, "end": span.end, "why": why}
            self._samples.append(row)

    def build_finding(self) -> Finding:
        """All that was found, and what no market has: dropped days, and pending ones beyond the candles."""
        between, self._samples = self._samples, []
        dropped = intersect_all(self._spans, self._dropped)
        pending = subtract(intersect_all(self._spans, self._pending), self._earlier_keys)
        for span in sorted([*dropped, *pending]):
            self._add(ALL_MARKETS, ALL_MARKETS, span)
        rows = [*self._samples, *between][:MAX_SAMPLE_ROWS]
        said = [f"{self._counts[why]:,} {why}" for why in KINDS if self._counts[why]]
        return Finding(
            "gaps",
            self._timeframe.name,
            self._examined,
            rows=pl.DataFrame(rows) if rows else None,
            note=f"spans without a candle: {', '.join(said)}" if said else "",
            numbers=tuple((why, float(self._counts[why])) for why in KINDS),
        )

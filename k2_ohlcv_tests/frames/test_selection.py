"""Which windows are selected, compared with a plain set of windows."""

from datetime import UTC, datetime

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from k2_ohlcv.domain.intervals import MICROSECOND, Interval, to_micros
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.frames import selection
from k2_ohlcv.frames.selection import WindowSelection, no_pairs

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 23, 50, tzinfo=UTC)
MARKETS = [("X", "A"), ("X", "B"), ("Y", "A")]

moments = st.integers(0, 20 * 60_000_000).map(lambda micros: AT + micros * MICROSECOND)
spans = st.tuples(moments, st.integers(1, 200_000_000)).map(
    lambda s: Interval(s[0], s[0] + s[1] * MICROSECOND)
)
markets = st.sampled_from([*MARKETS, ("X", None), (None, "A")])


def to_frame(trades: list[tuple[tuple[str | None, str | None], datetime]]) -> pl.DataFrame:
    rows = [(*market, to_micros(at)) for market, at in trades]
    schema = {"exchange": pl.String, "symbol": pl.String, "micros": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def all_windows() -> pl.DataFrame:
    """A row of every market in each minute of half an hour around the trades."""
    starts = [AT + minute * MINUTE.length for minute in range(-5, 30)]
    rows = [(*market, start) for market in MARKETS for start in starts]
    return pl.DataFrame(rows, schema=no_pairs().schema, orient="row")


@given(
    st.lists(spans, max_size=4),
    st.lists(st.tuples(markets, moments), max_size=12),
    st.lists(spans, max_size=3),
)
def test_the_selected_windows_are_those_of_spans_and_trades(
    spans: list[Interval],
    trades: list[tuple[tuple[str | None, str | None], datetime]],
    clipped: list[Interval],
) -> None:
    """A window is selected by a span, by a trade of its market, or by a trade of an unknown market."""
    chosen = WindowSelection.of(MINUTE, spans, to_frame(trades))
    whole = MINUTE.align(clipped)

    def expect(row: tuple[str, str, datetime]) -> bool:
        window = MINUTE.window(row[2])
        in_spans = any(span.intersect(window) for span in spans)
        at = [market for market, moment in trades if moment in window]
        return in_spans or row[:2] in at or any(None in market for market in at)

    rows = all_windows()
    expected = list(filter(expect, rows.rows()))
    assert chosen.filter(rows).rows() == expected
    assert chosen.clip(whole).filter(rows).rows() == [r for r in expected if any(r[2] in i for i in whole)]
    assert {r[2] for r in expected} == {
        s for s in set(rows["window_start"]) if any(s in i for i in chosen.cover(MINUTE))
    }
    assert chosen.pairs.filter(pl.any_horizontal(pl.all().is_null())).is_empty()


def test_too_many_windows_are_selected_for_all_markets(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """One more pair than the limit, and whole windows are selected."""
    trades = to_frame([(MARKETS[0], AT), (MARKETS[1], AT), (MARKETS[0], AT + 5 * MINUTE.length)])
    monkeypatch.setattr(selection, "MAX_PAIRS", 3)
    assert WindowSelection.of(MINUTE, [], trades).pairs.height == 3
    monkeypatch.setattr(selection, "MAX_PAIRS", 2)
    chosen = WindowSelection.of(MINUTE, [], trades)
    assert chosen.pairs.is_empty()
    assert chosen.intervals == (MINUTE.window(AT), MINUTE.window(AT + 5 * MINUTE.length))


def test_a_window_is_selected_once() -> None:
    """The engine computes intervals and single markets separately. A window in both would be stored twice."""
    later = AT + 5 * MINUTE.length
    trades = to_frame(
        [(MARKETS[0], AT), (MARKETS[0], later), (MARKETS[0], later + MICROSECOND), (MARKETS[1], later)]
    )
    chosen = WindowSelection.of(MINUTE, [Interval(AT, AT + MICROSECOND)], trades)
    assert chosen.intervals == (MINUTE.window(AT),)
    assert chosen.pairs.rows() == [(*MARKETS[0], later), (*MARKETS[1], later)]


def test_a_selection_of_many_candles_is_widened() -> None:
    """The selected intervals stay selected. Candles of other windows are not counted."""
    later = AT + 5 * MINUTE.length
    chosen = WindowSelection.of(MINUTE, [Interval(AT, AT + MICROSECOND)], to_frame([(MARKETS[0], later)]))
    most = round(1 / selection._MOST)
    stored = pl.DataFrame({"window_start": [later] * most + [later + MINUTE.length]})
    stored = stored.cast({"window_start": no_pairs().schema["window_start"]})
    widened = chosen.widen(MINUTE, stored)
    assert widened.intervals == (MINUTE.window(AT), MINUTE.window(later))
    assert widened.pairs.is_empty()
    assert chosen.widen(MINUTE, pl.concat([stored, stored[:1]])) is chosen

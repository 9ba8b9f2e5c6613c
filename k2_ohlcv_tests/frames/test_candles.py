"""Frames of candles: computed from windows, compared, and checked before a commit."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.candle import KEY_COLUMNS, VALUE_COLUMNS, Candle, Trade, aggregate
from k2_ohlcv.domain.errors import InvariantError
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES, candles_from_windows, diff_candles, is_in_intervals
from k2_ohlcv.frames.invariants import check_invariants
from k2_ohlcv.frames.windows import WINDOW_SCHEMA
from k2_ohlcv_tests.support.strategies import trades

MINUTE = find_timeframe("1m")
THEN, NOW = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC)


def engine_row(**values: object) -> pa.Table:
    row = {
        "symbol": "Y",
        "exchange": "X",
        "window_start": THEN,
        "open_price": Decimal(1),
        "high_price": Decimal(2),
        "low_price": Decimal(1),
        "close_price": Decimal(2),
        "volume": Decimal(2),
        "trade_count": 2,
        "notional": Decimal(3),
        "misfits": 0,
    }
    return pa.Table.from_pylist([row | values], schema=WINDOW_SCHEMA)


def scaled(units: int, places: int) -> Decimal:
    with localcontext(prec=76):  # the default context would round
        return Decimal(units).scaleb(-places)


@settings(max_examples=200)
@given(st.integers(1, 10**29 // 2 - 1), st.integers(1, 10**8), st.sampled_from([-1, 0, 0, 1]))
def test_vwap_is_the_exact_quotient_rounded_half_even(half: int, quotient: int, off: int) -> None:
    """Exact ties and their nearest neighbours are rounded right, over the whole range of volumes."""
    notional = min(quotient * 2 * half + half + off, 10**38 - 1)
    computed, _ = candles_from_windows(
        engine_row(
            volume=scaled(2 * half, 8),
            notional=scaled(notional, 16),
            high_price=Decimal("1e-8"),
        ),
        MINUTE,
    )
    assert computed["vwap"].item() == Decimal(round(Fraction(notional, 2 * half))).scaleb(-8)


def test_a_notional_that_could_overflow_is_refused() -> None:
    """High x volume below 10^22 passes. From 10^22 on, the sum may have overflowed silently in an engine."""
    below = engine_row(high_price=Decimal("9999999999"), volume=Decimal("1000000000000"))
    at_limit = engine_row(high_price=Decimal("1000000000"), volume=Decimal("10000000000000"))
    assert [frame.height for frame in candles_from_windows(below, MINUTE)] == [1, 0]
    candles, refused = candles_from_windows(at_limit, MINUTE)
    assert candles.is_empty()
    assert refused.rows() == [("X", "Y", THEN, "vwap_bounds")]


def test_only_windows_without_volume_or_with_invalid_trades_are_refused() -> None:
    good = engine_row()
    bad = [engine_row(symbol="A", volume=Decimal(0)), engine_row(symbol="B", misfits=1)]
    unknown = engine_row(symbol="C", misfits=2, volume=None, high_price=None)
    candles, refused = candles_from_windows(pa.concat_tables([*bad, good, unknown]), MINUTE)
    assert candles["symbol"].to_list() == ["Y"]
    assert refused["symbol"].to_list() == ["A", "B", "C"]
    assert set(refused["check"]) == {"positive_metrics"}


def candles(stored: list[Candle], clock: datetime = THEN) -> pl.DataFrame:
    rows = [{**vars(c), "created_at": clock, "updated_at": clock} for c in stored]
    return pl.DataFrame(rows, schema=CANDLE_TYPES).with_row_index("row")


def without_clocks(stored: list[Candle]) -> pl.DataFrame:
    return candles(stored).select(*KEY_COLUMNS, *VALUE_COLUMNS)


@given(trades(), trades(), st.data())
def test_applying_a_diff_gives_the_computed_candles(
    old: list[Trade], new: list[Trade], data: st.DataObject
) -> None:
    """Applying a diff to any stored candles leaves the computed candles, without a needless write."""
    stored, wanted = aggregate(old, MINUTE), aggregate(old[: len(old) // 2] + new, MINUTE)
    repeats = data.draw(st.lists(st.sampled_from(stored), max_size=3))
    table = candles(stored + repeats)
    diff = diff_candles(table, without_clocks(wanted), NOW)
    remaining = table.filter(~pl.col("row").is_in(diff.dropped_keys.implode()))
    after = pl.concat([remaining.drop("row"), diff.written])
    assert sorted(after.select(*KEY_COLUMNS, *VALUE_COLUMNS).rows()) == sorted(without_clocks(wanted).rows())
    single = [c for c in stored if c not in repeats]
    assert set(remaining.select(*KEY_COLUMNS).rows()) == {
        tuple(getattr(c, k) for k in KEY_COLUMNS) for c in wanted if c in single
    }
    outcomes = dict(diff.outcomes.group_by("outcome").len().iter_rows())
    assert outcomes.get("unchanged", 0) == remaining.height
    assert outcomes.get("changed", 0) + outcomes.get("added", 0) == diff.written.height
    assert outcomes.get("removed", 0) == len(diff.dropped_keys) - outcomes.get("changed", 0)
    assert (diff.written["updated_at"] == NOW).all()


def test_a_changed_candle_keeps_created_at_and_gets_a_new_updated_at() -> None:
    (candle,) = valid_candles()
    changed = replace(candle, trade_count=candle.trade_count + 1)
    diff = diff_candles(candles([candle]), without_clocks([changed]), NOW)
    assert diff.written.select("created_at", "updated_at").rows() == [(THEN, NOW)]
    assert diff_candles(candles([candle]), without_clocks([candle]), NOW).written.is_empty()


def valid_candles() -> list[Candle]:
    return [
        Candle(
            "Y",
            "X",
            THEN,
            MINUTE.window(THEN).end,
            THEN.date(),
            Decimal(1),
            Decimal(2),
            Decimal(1),
            Decimal(2),
            Decimal(2),
            2,
            Decimal("1.5"),
        )
    ]


BROKEN: dict[str, list[dict[str, Any]]] = {
    "price_relationships": [
        {"high_price": Decimal("0.5")},
        {"low_price": Decimal(0)},
        {"open_price": Decimal(3)},
    ],
    "vwap_bounds": [{"vwap": Decimal(9)}, {"vwap": Decimal("0.1")}],
    "positive_metrics": [{"volume": Decimal(0)}, {"trade_count": 0}],
    "window_alignment": [
        {"window_end": THEN},
        {"window_date": NOW.date()},
        {"window_start": THEN.replace(second=1), "window_end": THEN.replace(minute=1, second=1)},
    ],
}


@pytest.mark.parametrize(("check", "damage"), [(c, d) for c, many in BROKEN.items() for d in many])
def test_each_kind_of_damage_fails_the_invariant_of_its_name(check: str, damage: dict[str, Any]) -> None:
    (candle,) = valid_candles()
    good = candles([candle]).drop("row")
    check_invariants(good, MINUTE)
    bad = candles([replace(candle, **damage)]).drop("row")
    with pytest.raises(InvariantError, match=check) as refused:
        check_invariants(pl.concat([good, bad]), MINUTE)
    assert "1 candles" in str(refused.value) or "2 candles" in str(refused.value)


def test_repeated_keys_and_other_columns_fail_the_invariants() -> None:
    good = candles(valid_candles()).drop("row")
    with pytest.raises(InvariantError, match=r"2 candles .* unique_windows"):
        check_invariants(pl.concat([good, good]), MINUTE)
    with pytest.raises(InvariantError):
        check_invariants(good.drop("vwap"), MINUTE)
    with pytest.raises(InvariantError):
        check_invariants(good.with_columns(pl.col("trade_count").cast(pl.Int32)), MINUTE)


def test_intervals_are_half_open() -> None:
    window = MINUTE.window(THEN)
    moments = pl.DataFrame(
        {"at": [window.start, window.last, window.end]}, schema={"at": pl.Datetime("us", "UTC")}
    )
    assert moments.select(is_in_intervals("at", [window])).to_series().to_list() == [True, True, False]

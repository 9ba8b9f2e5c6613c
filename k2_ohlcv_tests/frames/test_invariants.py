"""The gate before a commit: the short test of a frame agrees with the pandera schema."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from k2_ohlcv.domain.errors import InvariantError
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES
from k2_ohlcv.frames.invariants import candle_schema, check_invariants

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 29, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "symbol": "A",
    "exchange": "X",
    "window_start": AT,
    "window_end": AT + MINUTE.length,
    "window_date": AT.date(),
    "open_price": Decimal(2),
    "high_price": Decimal(3),
    "low_price": Decimal(1),
    "close_price": Decimal(2),
    "volume": Decimal(1),
    "trade_count": 1,
    "vwap": Decimal(2),
    "created_at": AT,
    "updated_at": AT,
}
BROKEN: list[dict[str, Any]] = [
    *({name: None} for name in GOOD),
    {"high_price": Decimal(1)},
    {"low_price": Decimal(0)},
    {"vwap": Decimal(4)},
    {"volume": Decimal(0)},
    {"trade_count": 0},
    {"window_start": AT + timedelta(seconds=1)},
    {"window_end": AT},
    {"window_date": date(2024, 2, 28)},
]


def to_frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=CANDLE_TYPES)


def test_good_rows_pass_both() -> None:
    frame = to_frame(GOOD, GOOD | {"symbol": "B"})
    candle_schema(MINUTE).validate(frame, lazy=True)
    check_invariants(frame, MINUTE)


@pytest.mark.parametrize("change", BROKEN, ids=str)
def test_each_broken_rule_is_refused(change: dict[str, Any]) -> None:
    """One broken row among good ones."""
    with pytest.raises(InvariantError):
        check_invariants(to_frame(GOOD | {"symbol": "B"}, GOOD | change), MINUTE)


def test_a_repeated_key_is_refused() -> None:
    with pytest.raises(InvariantError, match="unique_windows"):
        check_invariants(to_frame(GOOD, GOOD | {"volume": Decimal(2)}), MINUTE)

"""Which incoming rows are new, duplicates, conflicts or too late."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from k2_ohlcv.domain.intervals import DAY, MICROSECOND
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.dedupe import DedupeResult, TradeBatch, find_duplicates
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.trades import make_trade

NOON = datetime(2024, 2, 28, 12, tzinfo=UTC)
MARKETS = [("X", "Y"), ("X", "Z")]
#: An id, the seconds after noon, a price and a market's number.
Row = tuple[str, float, int, int]


def find(lake: Lake, rows: Sequence[Row], daily: Sequence[bool] | None = None) -> DedupeResult:
    """Compare rows with the stored trades. Repeated ids refer to their first row."""
    keys = [(name, market) for name, _, _, market in rows]
    table = pa.table(
        {
            "market": pa.array([market for *_, market in rows], pa.int32()),
            "trade_id": pa.array([name for name, *_ in rows]),
            "timestamp": pa.array(
                [NOON + timedelta(seconds=seconds) for _, seconds, *_ in rows], pa.timestamp("us", "UTC")
            ),
            "price": pa.array([Decimal(price) for *_, price, _ in rows], pa.decimal128(18, 8)),
            "quantity": pa.array([Decimal(1)] * len(rows), pa.decimal128(19, 8)),
        }
    )
    first = np.array([keys.index(key) for key in keys])
    generated = np.zeros(len(rows), bool)
    has_daily_ids = None if daily is None else np.array(daily)
    return find_duplicates(lake.trades(), TradeBatch(table, MARKETS, generated, first, has_daily_ids))


def names(result: DedupeResult, rows: Sequence[Row]) -> tuple[str, str, str]:
    """The ids of the new, conflicting and late rows."""
    new, conflict, late = (
        "".join(row[0] for row, is_chosen in zip(rows, mask, strict=True) if is_chosen)
        for mask in (result.new, result.conflict, result.too_late)
    )
    return new, conflict, late


@pytest.fixture
def stored(lake: Lake) -> Lake:
    """Trades `a` at noon and `b` a second later, of the first market."""
    trades = [
        make_trade(n, NOON + i * timedelta(seconds=1), 1, 1, market=MARKETS[0]) for i, n in enumerate("ab")
    ]
    lakes.add_trades(lake, trades)
    return lake


def test_a_trade_exactly_at_frozen_before_is_new(stored: Lake) -> None:
    """`frozen_before` is the first moment whose trades are kept."""
    table_history.freeze_trades(stored.writable_trades(), NOON)
    rows: list[Row] = [("c", 0, 1, 0), ("d", -MICROSECOND.total_seconds(), 1, 0), ("e", 1, 1, 0)]
    assert names(find(stored, rows), rows) == ("ce", "", "d")


def test_stored_trades_before_frozen_before_are_not_too_late(stored: Lake) -> None:
    """A duplicate stays a duplicate and a conflict a conflict. Only unknown ids are too late."""
    table_history.freeze_trades(stored.writable_trades(), NOON + DAY)
    rows: list[Row] = [("a", 0, 1, 0), ("b", 1, 2, 0), ("c", 2, 1, 0), ("a", 0, 1, 1)]
    result = find(stored, rows)
    assert names(result, rows) == ("", "b", "ca")
    assert result.too_late.tolist() == [False, False, True, True]


def test_each_row_is_in_one_class(stored: Lake) -> None:
    """Repeats in the batch are compared with the first row of their id. Markets have their own ids."""
    rows: list[Row] = [
        ("a", 0, 1, 0),
        ("a", 0, 2, 0),
        ("a", 0, 1, 1),
        ("c", 5, 1, 0),
        ("c", 5, 1, 0),
        ("c", 5, 2, 0),
    ]
    result = find(stored, rows)
    assert result.new.tolist() == [False, False, True, True, False, False]
    assert result.conflict.tolist() == [False, True, False, False, False, True]
    assert not result.too_late.any()
    assert not result.shared_timestamps.any()


def test_files_with_daily_ids_and_others_may_share_a_batch(stored: Lake) -> None:
    """An id of another day is new for a row with a daily id, and a conflict for any other row."""
    a_day = DAY.total_seconds()
    rows: list[Row] = [("a", a_day, 1, 0), ("b", a_day, 1, 0)]
    assert names(find(stored, rows, [True, False]), rows) == ("a", "b", "")
    same_day: list[Row] = [("a", 0, 1, 0), ("b", 5, 1, 0)]
    assert names(find(stored, same_day, [True, True]), same_day) == ("", "b", "")

"""Retention while the trades table is missing, without an engine."""

from datetime import timedelta
from typing import Any

import pytest

from k2_ohlcv.domain.errors import MissingTradesError
from k2_ohlcv.domain.timeframe import Timeframe, find_timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.schemas import NAMESPACE, TRADES_SPEC
from k2_ohlcv.operations.retention import retention
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.forty_days import EXPIRE_ALL, retention_policy
from k2_ohlcv_tests.support.trades import AT, week_of_trades

MINUTE = find_timeframe("1m")
RENAMED = (NAMESPACE, "trades_elsewhere")


@pytest.mark.parametrize("timeframes", [None, (MINUTE,)])
@pytest.mark.parametrize("apply", [True, False])
def test_retention_waits_for_missing_trades(
    lake: Lake, timeframes: tuple[Timeframe, ...] | None, apply: bool
) -> None:
    """While the trades table is renamed, no candle snapshot expires and no partition is dropped."""
    lakes.add_trades(lake, week_of_trades())
    for trades in (week_of_trades()[:48], week_of_trades()):
        lakes.commit_candles(lake.writable_candles(MINUTE), MINUTE, trades, AT)
    before = lake.candles(MINUTE).metadata
    lake.catalog.rename_table(TRADES_SPEC.identifier, RENAMED)
    policy = retention_policy(**EXPIRE_ALL)
    options: dict[str, Any] = {"timeframes": timeframes} if timeframes else {}
    later = AT + timedelta(days=4000)
    with pytest.raises(MissingTradesError, match="Restore the trades table"):
        retention(lake, policy, apply=apply, as_of=later, now=later, **options)
    assert lake.candles(MINUTE).metadata == before
    lake.catalog.rename_table(RENAMED, TRADES_SPEC.identifier)
    report = retention(lake, policy, apply=apply, as_of=later, now=later, **options)
    assert [t.rows for t in report.tables if t.table == MINUTE.table] == [len(week_of_trades())]

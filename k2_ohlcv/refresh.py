"""Refresh: bring a candle table from its watermark to the trades as they are now, reading what changed."""

from collections.abc import Callable

import structlog
from pyiceberg.table import Table

from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.plan import Plan, plan_refresh
from k2_ohlcv.reconcile import reconcile
from k2_ohlcv.report import Report

_log = structlog.get_logger(__name__)


def refresh(
    lake: Lake,
    engine: Engine,
    timeframe: Timeframe,
    *,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Bring a candle table from its watermark to the trades as they are now, reading what changed.

    The watermark moves in the commit that makes it true, so a crash anywhere repeats work and never loses or
    doubles it. Arguments and errors are those of `rebuild`.
    """

    def choose(candles: Table, trades: Table) -> Plan:
        plan = plan_refresh(candles, trades, timeframe)
        if plan.reason and candles.current_snapshot() is not None:
            _log.warning("everything is dirty", table=timeframe.table, reason=plan.reason)
        return plan

    return reconcile(lake, engine, timeframe, choose, progress)


def plan(lake: Lake, timeframe: Timeframe) -> Plan:
    """What `refresh` would do at this moment, and why. Does nothing."""
    candles = lake.candles(timeframe)
    return plan_refresh(candles, lake.trades(), timeframe)

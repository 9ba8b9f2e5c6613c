"""The lake, the engine and the run state of a test, and the operations on them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2_ohlcv.defs.run_state import RunState
from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.frames.checks import Finding
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.reconcile import rebuild, refresh
from k2_ohlcv.operations.reports import ReconcileReport
from k2_ohlcv.operations.validate import validate
from k2_ohlcv_tests.support import lakes


@dataclass(frozen=True)
class EngineLake:
    """A lake, an engine that reads its tables, and the state of a run over all tables."""

    lake: Lake
    engine: Engine
    home: Path
    run: RunState

    def refresh(self, timeframe: Timeframe, **options: Any) -> ReconcileReport:
        """Refresh one candle table."""
        return refresh(self.lake, self.engine, timeframe, **options)

    def refresh_tables(self, *timeframes: Timeframe) -> None:
        """Refresh several candle tables."""
        for timeframe in timeframes:
            self.refresh(timeframe)

    def rebuild(
        self, timeframe: Timeframe, intervals: Sequence[Interval] | None = None, **options: Any
    ) -> ReconcileReport:
        """Rebuild one candle table: the partitions of some intervals, or all."""
        return rebuild(self.lake, self.engine, timeframe, intervals, **options)

    def validate(self, timeframe: Timeframe, intervals: Sequence[Interval], **options: Any) -> list[Finding]:
        """Run every check of one candle table."""
        return validate(self.lake, self.engine, timeframe, intervals, **options)

    def assert_equal_to_trades(self, trades: Iterable[Trade], *timeframes: Timeframe) -> None:
        """Compare candle tables (all, if none is named) with the reference aggregation of these trades."""
        lakes.assert_equal_to_trades(self.lake, trades, timeframes or TIMEFRAMES)


def empty_bench(home: Path, engine: Engine) -> EngineLake:
    """Empty the lake of an engine. Tests share the engine's session and nothing else."""
    lake = lakes.open_lake(home)
    lakes.drop_tables(lake)
    return EngineLake(lake, engine, home, RunState.for_timeframes(TIMEFRAMES))

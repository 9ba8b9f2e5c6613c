"""The state that the steps of one run share: windows, totals, and the windows that were reconciled.

The resource `spark` keeps it while the run lasts. Operations get its parts as plain arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import dagster as dg

from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.engine.totals import TotalsCache
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.operations.reports import ReconciledWindows


@dataclass(frozen=True)
class RunState:
    """The state of one run.

    Attributes:
        windows: windows that a step computed for the tables of later steps.
        totals: totals of trades that a check computed for later checks.
        reconciled: the windows that the step of each table made equal to the trades, by timeframe.
    """

    windows: WindowCache
    totals: TotalsCache
    reconciled: dict[str, ReconciledWindows] = field(default_factory=dict)

    @classmethod
    def for_timeframes(cls, timeframes: Sequence[Timeframe]) -> "RunState":
        """An empty state for a run over some timeframes."""
        return cls(WindowCache(timeframes), TotalsCache(timeframes))


def timeframes_of_run(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> list[Timeframe]:
    """The timeframes whose tables a run computes, or if it computes none, those whose tables it checks."""
    layer = context.job_def.asset_layer
    computed = layer.selected_asset_keys
    checked = {check.asset_key for check in layer.asset_graph.asset_check_keys}
    timeframes = [t for t in TIMEFRAMES if dg.AssetKey(t.table) in computed]
    return timeframes or [t for t in TIMEFRAMES if dg.AssetKey(t.table) in checked]

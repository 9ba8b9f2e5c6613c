"""What validation finds in the three days of `support.trades`."""

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.check_list import CHECKS
from k2_ohlcv.frames.checks import Finding
from k2_ohlcv_tests.support.candles import MINUTE, day_interval
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT

SPAN = Interval(day_interval(AT).start, day_interval(AT + 3 * DAY).end)
BLOCKING = [check.name for check in CHECKS if check.is_blocking]


def list_failures(each_engine: EngineLake, timeframe: Timeframe = MINUTE) -> dict[str, int]:
    """Failures by check, without freshness."""
    findings = each_engine.validate(timeframe, [SPAN], cache=each_engine.run.totals)
    assert [f.check for f in findings] == [c.name for c in CHECKS]
    return {f.check: f.failures for f in findings if f.failures and f.check != "freshness"}


def find_check(each_engine: EngineLake, check: str, timeframe: Timeframe = MINUTE) -> Finding:
    """The finding of one check."""
    findings = each_engine.validate(timeframe, [SPAN], cache=each_engine.run.totals)
    (finding,) = [f for f in findings if f.check == check]
    return finding

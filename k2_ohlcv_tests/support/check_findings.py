"""What validation finds in the week of `support.trades`."""

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.checks import CHECKS, Finding
from k2_ohlcv_tests.support.candles import MINUTE, day_interval
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT

SPAN = Interval(day_interval(AT).start, day_interval(AT + 3 * DAY).end)
BLOCKING = [check.name for check in CHECKS if check.is_blocking]


def list_failures(each_engine: EngineLake, each: Timeframe = MINUTE) -> dict[str, int]:
    found = each_engine.validate(each, [SPAN], cache=each_engine.run.totals)
    assert [f.check for f in found] == [c.name for c in CHECKS]
    return {f.check: f.failures for f in found if f.failures and f.check != "freshness"}


def find_check(each_engine: EngineLake, check: str, each: Timeframe = MINUTE) -> Finding:
    findings = each_engine.validate(each, [SPAN], cache=each_engine.run.totals)
    (found,) = [f for f in findings if f.check == check]
    return found

"""What validation finds in the week of `support.trades`."""

from k2_ohlcv.domain.checks import CHECKS, Finding
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.window import DAY, Interval
from k2_ohlcv.validate import validate
from k2_ohlcv_tests.support.bench import Bench
from k2_ohlcv_tests.support.candles import MINUTE, day
from k2_ohlcv_tests.support.trades import AT

SPAN = Interval(day(AT).start, day(AT + 3 * DAY).end)
BLOCKING = [check.name for check in CHECKS if check.blocking]


def failures(bench: Bench, each: Timeframe = MINUTE) -> dict[str, int]:
    found = validate(bench.lake, bench.engine, each, [SPAN], cache=bench.run.totals)
    assert [f.check for f in found] == [c.name for c in CHECKS]
    return {f.check: f.failures for f in found if f.failures and f.check != "freshness"}


def finding(bench: Bench, check: str, each: Timeframe = MINUTE) -> Finding:
    findings = validate(bench.lake, bench.engine, each, [SPAN], cache=bench.run.totals)
    (found,) = [f for f in findings if f.check == check]
    return found

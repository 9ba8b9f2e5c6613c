"""How long a candle table may be behind its trades, as a freshness policy: the UI and the sensors ask it."""

from datetime import timedelta

import dagster as dg

from k2_ohlcv.domain.timeframe import Timeframe


def freshness_policy(timeframe: Timeframe, seconds: int | None) -> dg.FreshnessPolicy:
    """The freshness policy of a candle table.

    Args:
        timeframe: the table.
        seconds: `Settings.refresh_seconds`: when to warn; None is the timeframe's own.
    """
    if seconds is None:
        return dg.FreshnessPolicy.time_window(
            fail_window=timeframe.fail_after, warn_window=timeframe.warn_after
        )
    warn = timedelta(seconds=seconds)
    return dg.FreshnessPolicy.time_window(fail_window=2 * warn, warn_window=warn)

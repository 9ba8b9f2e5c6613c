"""Freshness policies: how long a candle table may lag behind its trades. The UI and the sensors read them."""

from datetime import timedelta

import dagster as dg

from k2_ohlcv.domain.timeframe import Timeframe


def freshness_policy(timeframe: Timeframe, seconds: int | None) -> dg.FreshnessPolicy:
    """The freshness policy of a candle table.

    Args:
        timeframe: the table.
        seconds: the lag at which to warn (`Settings.refresh_seconds`); None is the timeframe's own.
    """
    if seconds is None:
        return dg.FreshnessPolicy.time_window(
            fail_window=timeframe.fail_after, warn_window=timeframe.warn_after
        )
    warn = timedelta(seconds=seconds)
    return dg.FreshnessPolicy.time_window(fail_window=2 * warn, warn_window=warn)

"""How long a candle table may be behind, and how often the sensors look: two settings and a default each."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import dagster as dg

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.timeframe import Timeframe

#: Dagster takes no window of freshness that is shorter.
_SHORTEST = 60


@dataclass(frozen=True)
class Patience:
    """What the environment says.

    Attributes:
        tick: `K2_SENSOR_SECONDS`: the least seconds between two looks of a sensor.
        within: `K2_REFRESH_SECONDS`: every table is refreshed when so many seconds behind; None is each
            timeframe's own number.
    """

    tick: int = 30
    within: int | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> "Patience":
        """The settings of this moment.

        Raises:
            UsageError: a variable has a value that it does not take.
        """
        environ = os.environ if environ is None else environ
        tick = _seconds(environ, "K2_SENSOR_SECONDS", 1)
        return cls(tick or cls.tick, _seconds(environ, "K2_REFRESH_SECONDS", _SHORTEST))

    def policy(self, timeframe: Timeframe) -> dg.FreshnessPolicy:
        """The freshness policy of a candle table: what the UI judges by, and what the sensor asks."""
        if self.within is None:
            return dg.FreshnessPolicy.time_window(fail_window=timeframe.fail, warn_window=timeframe.warn)
        warn = timedelta(seconds=self.within)
        return dg.FreshnessPolicy.time_window(fail_window=2 * warn, warn_window=warn)


def _seconds(environ: Mapping[str, str], name: str, least: int) -> int | None:
    text = environ.get(name) or ""
    if not text:
        return None
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{name}={text!r}: it is a whole number of seconds, at least {least}")
    return int(text)

"""What the environment says: every number can be set, and a wrong one is named with what to write."""

from datetime import timedelta

import pytest

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.retention import SNAPSHOT_DAYS, RetentionPolicy
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.settings import MIN_REFRESH_SECONDS, SENSOR_SECONDS, Settings


def lengths(environ: dict[str, str]) -> RetentionPolicy:
    return Settings.from_environ(environ).retention


def test_the_defaults_are_those_of_the_timeframes() -> None:
    settings = lengths({})
    assert settings.candles == {t.name: t.default_retention for t in TIMEFRAMES}
    assert settings.trades is None
    assert settings.snapshots == SNAPSHOT_DAYS * DAY
    assert lengths({"K2_RETENTION_1M": "", "K2_SNAPSHOT_DAYS": ""}) == settings


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("30d", 30 * DAY),
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("2w", 14 * DAY),
        ("1y", 365 * DAY),
        ("off", None),
    ],
)
def test_every_number_can_be_set(text: str, kept: timedelta | None) -> None:
    assert lengths({"K2_RETENTION_1M": text}).candles["1m"] == kept
    assert lengths({"K2_SNAPSHOT_DAYS": "0"}).snapshots == timedelta(0)


@pytest.mark.parametrize("text", ["30", "d", "-3d", "1.5d", "30 days", "9999999d", "never"])
def test_a_wrong_value_is_named_with_the_right_form(text: str) -> None:
    with pytest.raises(UsageError, match=r"K2_RETENTION_5M=.*such as 30d"):
        lengths({"K2_RETENTION_5M": text})
    with pytest.raises(UsageError, match=r"K2_SNAPSHOT_DAYS=.*such as 5"):
        lengths({"K2_SNAPSHOT_DAYS": text if text != "30" else "5d"})


def test_no_table_is_kept_for_less_than_its_freshness_needs() -> None:
    for timeframe in TIMEFRAMES:
        variable = f"K2_RETENTION_{timeframe.name.upper()}"
        least = timeframe.fail_after // timedelta(minutes=1)
        assert lengths({variable: f"{least}m"}).candles[timeframe.name] == timeframe.fail_after
        with pytest.raises(UsageError, match=f"{variable}=.*{timeframe.table}"):
            lengths({variable: f"{least - 1}m"})
    with pytest.raises(UsageError, match="K2_RETENTION_TRADES"):
        lengths({"K2_RETENTION_TRADES": "1d"})


def test_how_often_to_look_and_refresh() -> None:
    least = str(MIN_REFRESH_SECONDS)
    found = Settings.from_environ({"K2_SENSOR_SECONDS": "5", "K2_REFRESH_SECONDS": least})
    assert (found.sensor_seconds, found.refresh_seconds) == (5, MIN_REFRESH_SECONDS)
    unset = Settings.from_environ({"K2_SENSOR_SECONDS": "", "K2_REFRESH_SECONDS": ""})
    assert (unset.sensor_seconds, unset.refresh_seconds) == (SENSOR_SECONDS, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("K2_REFRESH_SECONDS", str(MIN_REFRESH_SECONDS - 1)),
        ("K2_SENSOR_SECONDS", "soon"),
        ("K2_SENSOR_SECONDS", "0"),
        ("K2_SENSOR_SECONDS", "\N{SUPERSCRIPT TWO}"),
    ],
)
def test_a_wrong_number_of_seconds_is_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{name}='{value}' is not a number of seconds: write .* such as"):
        Settings.from_environ({name: value})

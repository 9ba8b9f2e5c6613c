"""Settings from the environment: valid values, defaults, and errors that give the right form."""

from datetime import timedelta

import pytest

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.retention import SNAPSHOT_DAYS, RetentionPolicy
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.settings import DAGSTER_RETENTION, MIN_REFRESH_SECONDS, SENSOR_SECONDS, Settings


def read_retention(environ: dict[str, str]) -> RetentionPolicy:
    return Settings.from_environ(environ).retention


def test_the_defaults_are_those_of_the_timeframes() -> None:
    policy = read_retention({})
    assert policy.candles == {t.name: t.default_retention for t in TIMEFRAMES}
    assert policy.trades is None
    assert policy.snapshots == SNAPSHOT_DAYS * DAY
    assert read_retention({"K2_RETENTION_1M": "", "K2_SNAPSHOT_DAYS": ""}) == policy


@pytest.mark.parametrize(
    ("text", "retention"),
    [
        ("30d", 30 * DAY),
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("2w", 14 * DAY),
        ("1y", 365 * DAY),
        ("off", None),
    ],
)
def test_every_retention_can_be_set(text: str, retention: timedelta | None) -> None:
    assert read_retention({"K2_RETENTION_1M": text}).candles["1m"] == retention
    assert read_retention({"K2_SNAPSHOT_DAYS": "0"}).snapshots == timedelta(0)


@pytest.mark.parametrize("text", ["30", "d", "-3d", "1.5d", "30 days", "9999999d", "never"])
def test_an_invalid_value_is_an_error_with_the_right_form(text: str) -> None:
    with pytest.raises(UsageError, match=r"K2_RETENTION_5M=.*such as 30d"):
        read_retention({"K2_RETENTION_5M": text})
    with pytest.raises(UsageError, match=r"K2_SNAPSHOT_DAYS=.*such as 5"):
        read_retention({"K2_SNAPSHOT_DAYS": text if text != "30" else "5d"})


def test_retention_is_never_shorter_than_the_freshness_limit() -> None:
    for timeframe in TIMEFRAMES:
        variable = f"K2_RETENTION_{timeframe.name.upper()}"
        least = timeframe.fail_after // timedelta(minutes=1)
        assert read_retention({variable: f"{least}m"}).candles[timeframe.name] == timeframe.fail_after
        with pytest.raises(UsageError, match=f"{variable}=.*{timeframe.table}"):
            read_retention({variable: f"{least - 1}m"})
    with pytest.raises(UsageError, match="K2_RETENTION_TRADES"):
        read_retention({"K2_RETENTION_TRADES": "1d"})


def test_the_retention_of_dagsters_runs_can_be_set() -> None:
    def read(text: str) -> timedelta | None:
        return Settings.from_environ({"K2_DAGSTER_KEPT": text}).dagster_retention

    assert (read(""), read("90d"), read("off")) == (DAGSTER_RETENTION, 90 * DAY, None)
    with pytest.raises(UsageError, match=r"K2_DAGSTER_KEPT='1h' is too short: .* at least that"):
        read("1h")


def test_sensor_and_refresh_intervals_can_be_set() -> None:
    least = str(MIN_REFRESH_SECONDS)
    settings = Settings.from_environ({"K2_SENSOR_SECONDS": "5", "K2_REFRESH_SECONDS": least})
    assert (settings.sensor_seconds, settings.refresh_seconds) == (5, MIN_REFRESH_SECONDS)
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
def test_an_invalid_number_of_seconds_is_an_error(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{name}='{value}' is not a number of seconds: write .* such as"):
        Settings.from_environ({name: value})

"""Reads the environment variables into one frozen `Settings` value.

Every variable that this project reads is here. PyIceberg and AWS libraries read their own variables.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import date, timedelta
from pathlib import Path

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.memory import DEFAULT_MEMORY_MB, MIN_MEMORY_MB
from k2_ohlcv.domain.retention import SNAPSHOT_DAYS, RetentionPolicy
from k2_ohlcv.domain.timeframe import TIMEFRAMES, parse_day

#: Public dumps of trades start later, although Bitcoin's first markets are older.
DEFAULT_START_DATE = date(2013, 1, 1)
#: How long Dagster's storage keeps ended runs by default.
DAGSTER_RETENTION = 30 * DAY
#: The default interval of the sensors.
SENSOR_SECONDS = 30
#: The shortest freshness window that Dagster accepts.
MIN_REFRESH_SECONDS = 60

#: The prefix of PyIceberg's catalog settings. If one is set, no table is stored under `K2_HOME`.
_CATALOG_SETTINGS = "PYICEBERG_CATALOG__K2__"
#: Characters besides letters and digits that work in a path with a space, and in a path without.
_WITH_SPACE = "/._- +!';:=@,&$()"
_WITHOUT_SPACE = "/._-+!';:=@,&$()~^|*[]"

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": DAY, "w": 7 * DAY, "y": 365 * DAY}
#: The longest lag of any candle table. Trades must be stored at least this long.
_LONGEST_LAG = max(timeframe.fail_after for timeframe in TIMEFRAMES)


@dataclass(frozen=True)
class Settings:
    """The settings of the environment.

    Attributes:
        home: `K2_HOME`, default `.k2` in the working directory: the folder of all data by default.
        dagster_home: `DAGSTER_HOME`, default `dagster/` in `home`: Dagster's storage.
        spark_remote: `SPARK_REMOTE`: `sc://host:port` or `local[N]`. None means the embedded server.
        start_date: `K2_START_DATE`: the first day of all partitions. None stands for the word `retention`:
            the partitions of each table begin where its retention ends.
        log_json: `K2_LOG=json`: logs are JSON objects on stderr, one per line.
        trades_table: `K2_TRADES_TABLE`: namespace and name of an external trades table in the catalog. None
            means the trades table of this project.
        trades_columns: `K2_TRADES_COLUMNS`: pairs of a column name here and in the external table, if they
            differ. An empty name means that the external table has no such column.
        external_retention: `K2_TRADES_KEPT`: how long the owner keeps the external trades. None is forever.
        retention: `K2_RETENTION_1M` to `_1D`, `K2_RETENTION_TRADES`, `K2_SNAPSHOT_DAYS`: retention of
            candles, trades and snapshots.
        dagster_retention: `K2_DAGSTER_KEPT`: how long Dagster's storage keeps ended runs. None is forever.
        sensor_seconds: `K2_SENSOR_SECONDS`: the shortest interval of the sensors.
        refresh_seconds: `K2_REFRESH_SECONDS`: the lag at which each table is refreshed. None: its own.
        backfill_days: `K2_BACKFILL_DAYS`: the days of one run of a backfill. None: by the measured trades.
        memory_mb: `K2_MEMORY_MB`: the memory in MB that a run should stay within.
    """

    home: Path
    dagster_home: Path
    spark_remote: str | None
    start_date: date | None
    log_json: bool
    trades_table: tuple[str, ...] | None
    trades_columns: tuple[tuple[str, str], ...]
    external_retention: timedelta | None
    retention: RetentionPolicy
    dagster_retention: timedelta | None
    sensor_seconds: int
    refresh_seconds: int | None
    backfill_days: int | None = None
    memory_mb: int = DEFAULT_MEMORY_MB

    @property
    def landing(self) -> Path:
        """The folder of trade files to ingest, as `<EXCHANGE>/<SYMBOL>/file`."""
        return self.home / "landing"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from the environment.

        Raises:
            UsageError: a variable has an invalid value.
        """
        environ = os.environ if environ is None else environ
        home, dagster_home = _read_homes(environ)
        trades_table, trades_columns = _read_external_table(environ)
        return cls(
            home=home,
            dagster_home=dagster_home,
            spark_remote=environ.get("SPARK_REMOTE") or None,
            start_date=_parse_start_date(environ.get("K2_START_DATE") or ""),
            log_json=_is_json_log(environ.get("K2_LOG") or "text"),
            trades_table=trades_table,
            trades_columns=trades_columns,
            external_retention=_read_trades_retention(environ, "K2_TRADES_KEPT"),
            retention=_read_retention(environ),
            dagster_retention=_read_dagster_retention(environ),
            sensor_seconds=_read_whole_number(environ, "K2_SENSOR_SECONDS", "seconds", 1) or SENSOR_SECONDS,
            refresh_seconds=_read_whole_number(environ, "K2_REFRESH_SECONDS", "seconds", MIN_REFRESH_SECONDS),
            backfill_days=_read_whole_number(environ, "K2_BACKFILL_DAYS", "days", 1),
            memory_mb=_read_whole_number(environ, "K2_MEMORY_MB", "MB", MIN_MEMORY_MB) or DEFAULT_MEMORY_MB,
        )


def _read_homes(environ: Mapping[str, str]) -> tuple[Path, Path]:
    """Read `K2_HOME` and `DAGSTER_HOME`."""
    home = Path(environ.get("K2_HOME") or ".k2").absolute()
    dagster_home = Path(environ.get("DAGSTER_HOME") or home / "dagster").absolute()
    if not any(name.startswith(_CATALOG_SETTINGS) for name in environ):
        _reject_characters("K2_HOME", home, _home_characters(home), "the engine cannot read tables there")
    name = "DAGSTER_HOME" if environ.get("DAGSTER_HOME") else "K2_HOME"
    why = "Dagster cannot keep its storage there"
    _reject_characters(name, dagster_home, lambda character: character not in "%?", why)
    return home, dagster_home


def _is_json_log(text: str) -> bool:
    if text not in {"text", "json"}:
        raise UsageError(f"K2_LOG={text!r} is unknown: set json or text")
    return text == "json"


def _read_external_table(
    environ: Mapping[str, str],
) -> tuple[tuple[str, ...] | None, tuple[tuple[str, str], ...]]:
    """Read the name of the external trades table, and its column names that differ."""
    table = _parse_table_name(environ.get("K2_TRADES_TABLE") or "")
    columns = _parse_columns(environ.get("K2_TRADES_COLUMNS") or "")
    if columns and table is None:
        raise UsageError("K2_TRADES_COLUMNS maps the columns of K2_TRADES_TABLE, which is not set")
    if environ.get("K2_TRADES_KEPT", "").strip() and table is None:
        raise UsageError(
            "K2_TRADES_KEPT says how long the trades of K2_TRADES_TABLE are kept, which is not set: "
            "K2_RETENTION_TRADES is for the trades table of this project"
        )
    return table, columns


def _home_characters(home: Path) -> Callable[[str], bool]:
    """The test for characters that both PyIceberg and Sail accept. The two escape paths differently."""
    known = _WITH_SPACE if " " in str(home) else _WITHOUT_SPACE
    return lambda character: (character.isascii() and character.isalnum()) or character in known


def _reject_characters(name: str, path: Path, is_known: Callable[[str], bool], why: str) -> None:
    rejected = dict.fromkeys(character for character in str(path) if not is_known(character))
    if rejected:
        shown = ", ".join(repr(character) for character in rejected)
        raise UsageError(f"{name}={str(path)!r} has {shown} in its path, and {why}: choose a path without")


def _read_retention(environ: Mapping[str, str]) -> RetentionPolicy:
    candles = {
        t.name: _read_duration(
            environ,
            f"K2_RETENTION_{t.name.upper()}",
            default=t.default_retention,
            least=t.fail_after,
            why=f"{t.table} may lag behind its trades by",
        )
        for t in TIMEFRAMES
    }
    trades = _read_trades_retention(environ, "K2_RETENTION_TRADES")
    days = _read_whole_number(environ, "K2_SNAPSHOT_DAYS", "days", 0)
    return RetentionPolicy(candles, trades, (SNAPSHOT_DAYS if days is None else days) * DAY)


def _read_dagster_retention(environ: Mapping[str, str]) -> timedelta | None:
    why = "sensors and checks look back at runs of"
    return _read_duration(environ, "K2_DAGSTER_KEPT", default=DAGSTER_RETENTION, least=DAY, why=why)


def _read_trades_retention(environ: Mapping[str, str], name: str) -> timedelta | None:
    why = "candle tables may lag behind their trades by"
    return _read_duration(environ, name, least=_LONGEST_LAG, why=why)


def _read_duration(
    environ: Mapping[str, str], name: str, *, default: timedelta | None = None, least: timedelta, why: str
) -> timedelta | None:
    """Read a retention. None is forever. `why` is the reason for the least duration, for messages."""
    text = environ.get(name, "").strip()
    if not text or text == "off":
        return None if text else default
    parts = re.fullmatch(r"(\d{1,6})\s*([mhdwy])", text)
    if not parts:
        raise UsageError(
            f"{name}={text!r} is not a duration: write a number and a unit (m, h, d, w or y), such as 30d, "
            "or off to keep everything"
        )
    duration = int(parts[1]) * _UNITS[parts[2]]
    if duration < least:
        hours = least / timedelta(hours=1)
        raise UsageError(f"{name}={text!r} is too short: {why} {hours:.3g} hours, so set at least that")
    return duration


def _read_whole_number(environ: Mapping[str, str], name: str, unit: str, least: int) -> int | None:
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,6}", text) or int(text) < least:
        raise UsageError(
            f"{name}={text!r} is not a number of {unit}: write a whole number, at least {least}, "
            f"such as {max(least, 5)}"
        )
    return int(text)


def _parse_start_date(text: str) -> date | None:
    if text == "retention":
        return None
    if not text:
        return DEFAULT_START_DATE
    try:
        return parse_day(text)
    except UsageError as error:
        raise UsageError(f"K2_START_DATE: {error}, or the word retention") from None


def _parse_table_name(text: str) -> tuple[str, ...] | None:
    if not text:
        return None
    parts = tuple(text.split("."))
    if len(parts) < 2 or not all(parts):
        raise UsageError(f"K2_TRADES_TABLE={text!r} is not a table: write namespace.table, as in the catalog")
    return parts


def _parse_columns(text: str) -> tuple[tuple[str, str], ...]:
    names = [column.name for column in fields(Trade)]
    mapped: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, external = (piece.strip() for piece in part.partition("="))
        if not equals or name not in names or name in mapped or (not external and name != "trade_id"):
            raise UsageError(
                f"K2_TRADES_COLUMNS: {part!r} is not name=column: name is one of {', '.join(names)}, each "
                "once, and column is a column of K2_TRADES_TABLE (write trade_id= if the table has no ids)"
            )
        mapped[name] = external
    return tuple(mapped.items())

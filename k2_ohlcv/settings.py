"""The environment, read once per call into one frozen value.

Every variable that this project reads is named here. PyIceberg's and AWS's own variables are theirs:
they are read by those libraries.
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
from k2_ohlcv.domain.retention import SNAPSHOT_DAYS, RetentionPolicy
from k2_ohlcv.domain.timeframe import TIMEFRAMES, parse_day

#: Bitcoin's first public markets are older, but no dump that people land is.
DEFAULT_START_DATE = date(2013, 1, 1)
#: How often the sensors look.
SENSOR_SECONDS = 30
#: Dagster takes no window of freshness that is shorter.
MIN_REFRESH_SECONDS = 60

#: PyIceberg's own settings of the catalog: where there are any, no table lies under `K2_HOME`.
_CATALOG_SETTINGS = "PYICEBERG_CATALOG__K2__"
#: The characters besides letters and digits that work in a path with a space, and in one without.
_WITH_SPACE = "/._- +!';:=@,&$()"
_WITHOUT_SPACE = "/._-+!';:=@,&$()~^|*[]"

_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": DAY,
    "w": 7 * DAY,
    "y": 365 * DAY,
}
#: What the slowest table may be behind its trades for: they must be there as long.
_MAX_DAYS = max(timeframe.fail_after for timeframe in TIMEFRAMES)


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    Attributes:
        home: `K2_HOME`, default `.k2` in the working directory: where all lives unless configured otherwise.
        dagster_home: `DAGSTER_HOME`, default `dagster/` in `home`: Dagster's own storage.
        spark_remote: `SPARK_REMOTE`: None for the embedded server, else `sc://host:port` or `local[N]`.
        start_date: `K2_START_DATE`: the first day of every table's partitions; None means the word
            `retention`: each table's begin where its retention ends.
        log_json: `K2_LOG=json`: logs are JSON objects, one a line, on stderr.
        trades_table: `K2_TRADES_TABLE`: namespace and name of someone else's trades table in the catalog;
            None means our own.
        trades_columns: `K2_TRADES_COLUMNS`: pairs of our name of a column and theirs, for those that differ;
            an empty name says that they have no such column.
        external_retention: `K2_TRADES_KEPT`: how long someone else keeps the trades of that table; None is
            for ever.
        retention: `K2_RETENTION_1M` to `_1D`, `K2_RETENTION_TRADES`, `K2_SNAPSHOT_DAYS`: how long what is
            kept.
        sensor_seconds: `K2_SENSOR_SECONDS`: the least seconds between two looks of a sensor.
        refresh_seconds: `K2_REFRESH_SECONDS`: every table is refreshed when so many seconds behind; None is
            each timeframe's own number.
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
    sensor_seconds: int
    refresh_seconds: int | None

    @property
    def landing(self) -> Path:
        """Where trade files wait to be ingested, as `<EXCHANGE>/<SYMBOL>/file`."""
        return self.home / "landing"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """The settings of this moment.

        Raises:
            UsageError: a variable has a value that it does not take.
        """
        environ = os.environ if environ is None else environ
        home = Path(environ.get("K2_HOME") or ".k2").absolute()
        dagster_home = Path(environ.get("DAGSTER_HOME") or home / "dagster").absolute()
        if not any(name.startswith(_CATALOG_SETTINGS) for name in environ):
            _reject_characters("K2_HOME", home, _home_characters(home), "the engine cannot read tables there")
        _reject_characters(
            "DAGSTER_HOME" if environ.get("DAGSTER_HOME") else "K2_HOME",
            dagster_home,
            lambda character: character not in "%?",
            "Dagster cannot keep its storage there",
        )
        log = environ.get("K2_LOG") or "text"
        if log not in {"text", "json"}:
            raise UsageError(f"K2_LOG={log!r} is not known: it is json or text")
        table = _parse_table_name(environ.get("K2_TRADES_TABLE") or "")
        columns = _parse_columns(environ.get("K2_TRADES_COLUMNS") or "")
        if columns and table is None:
            raise UsageError("K2_TRADES_COLUMNS maps the columns of K2_TRADES_TABLE, which is not set")
        if environ.get("K2_TRADES_KEPT", "").strip() and table is None:
            raise UsageError(
                "K2_TRADES_KEPT says how long the trades of K2_TRADES_TABLE are kept, which is not set: "
                "K2_RETENTION_TRADES says it of our own"
            )
        return cls(
            home=home,
            dagster_home=dagster_home,
            spark_remote=environ.get("SPARK_REMOTE") or None,
            start_date=_parse_start_date(environ.get("K2_START_DATE") or ""),
            log_json=log == "json",
            trades_table=table,
            trades_columns=columns,
            external_retention=_read_external_retention(environ, "K2_TRADES_KEPT"),
            retention=_read_retention(environ),
            sensor_seconds=_read_whole_number(environ, "K2_SENSOR_SECONDS", "seconds", 1) or SENSOR_SECONDS,
            refresh_seconds=_read_whole_number(environ, "K2_REFRESH_SECONDS", "seconds", MIN_REFRESH_SECONDS),
        )


def _home_characters(home: Path) -> Callable[[str], bool]:
    """What a path may have so that PyIceberg and Sail, which escape differently, mean the same file."""
    known = _WITH_SPACE if " " in str(home) else _WITHOUT_SPACE
    return lambda character: (character.isascii() and character.isalnum()) or character in known


def _reject_characters(name: str, path: Path, is_known: Callable[[str], bool], why: str) -> None:
    refused = dict.fromkeys(character for character in str(path) if not is_known(character))
    if refused:
        named = ", ".join(repr(character) for character in refused)
        raise UsageError(f"{name}={str(path)!r} has {named} in its path, and {why}: choose a path without")


def _read_retention(environ: Mapping[str, str]) -> RetentionPolicy:
    candles = {
        t.name: _read_duration(
            environ,
            f"K2_RETENTION_{t.name.upper()}",
            default=t.default_retention,
            least=t.fail_after,
            need=f"{t.table} may be behind its trades for",
        )
        for t in TIMEFRAMES
    }
    trades = _read_external_retention(environ, "K2_RETENTION_TRADES")
    days = _read_whole_number(environ, "K2_SNAPSHOT_DAYS", "days", 0)
    return RetentionPolicy(candles, trades, (SNAPSHOT_DAYS if days is None else days) * DAY)


def _read_external_retention(environ: Mapping[str, str], name: str) -> timedelta | None:
    need = "candle tables may be behind their trades for"
    return _read_duration(environ, name, least=_MAX_DAYS, need=need)


def _read_duration(
    environ: Mapping[str, str],
    name: str,
    *,
    default: timedelta | None = None,
    least: timedelta,
    need: str,
) -> timedelta | None:
    """How long something is kept; None is for ever. `need` says what the least is for."""
    text = environ.get(name, "").strip()
    if not text or text == "off":
        return None if text else default
    found = re.fullmatch(r"(\d{1,6})\s*([mhdwy])", text)
    if not found:
        raise UsageError(
            f"{name}={text!r} is not a duration: write a number and a unit (m, h, d, w or y), such as 30d, "
            "or off to keep everything"
        )
    kept = int(found[1]) * _UNITS[found[2]]
    if kept < least:
        hours = least / timedelta(hours=1)
        raise UsageError(f"{name}={text!r} is too short: {need} {hours:.3g} hours, and no less is kept")
    return kept


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
    ours = [column.name for column in fields(Trade)]
    mapped: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, theirs = (piece.strip() for piece in part.partition("="))
        if not equals or name not in ours or name in mapped or (not theirs and name != "trade_id"):
            raise UsageError(
                f"K2_TRADES_COLUMNS: {part!r} is not ours=theirs: ours is one of {', '.join(ours)}, each "
                "once, and theirs a column of K2_TRADES_TABLE (none after trade_id= where there are no ids)"
            )
        mapped[name] = theirs
    return tuple(mapped.items())

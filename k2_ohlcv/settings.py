"""The environment, read once per call into one frozen value.

Every variable that this project reads is named here. PyIceberg's and AWS's own variables are theirs:
they are read by those libraries.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.timeframe import parse_day

#: Bitcoin's first public markets are older, but no dump that people land is.
DEFAULT_START_DATE = date(2013, 1, 1)


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
    """

    home: Path
    dagster_home: Path
    spark_remote: str | None
    start_date: date | None
    log_json: bool
    trades_table: tuple[str, ...] | None = None
    trades_columns: tuple[tuple[str, str], ...] = ()

    @property
    def landing(self) -> Path:
        """Where trade files wait to be ingested, as `<EXCHANGE>/<SYMBOL>/file`."""
        return self.home / "landing"

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """The settings of this moment.

        Raises:
            UsageError: a variable has a value that it does not take.
        """
        environ = os.environ if environ is None else environ
        home = Path(environ.get("K2_HOME") or ".k2").absolute()
        log = environ.get("K2_LOG") or "text"
        if log not in {"text", "json"}:
            raise UsageError(f"K2_LOG={log!r} is not known: it is json or text")
        table = _table(environ.get("K2_TRADES_TABLE") or "")
        columns = _columns(environ.get("K2_TRADES_COLUMNS") or "")
        if columns and table is None:
            raise UsageError("K2_TRADES_COLUMNS maps the columns of K2_TRADES_TABLE, which is not set")
        return cls(
            home=home,
            dagster_home=Path(environ.get("DAGSTER_HOME") or home / "dagster").absolute(),
            spark_remote=environ.get("SPARK_REMOTE") or None,
            start_date=_start_date(environ.get("K2_START_DATE") or ""),
            log_json=log == "json",
            trades_table=table,
            trades_columns=columns,
        )


def _start_date(text: str) -> date | None:
    if text == "retention":
        return None
    if not text:
        return DEFAULT_START_DATE
    try:
        return parse_day(text)
    except UsageError as error:
        raise UsageError(f"K2_START_DATE: {error}, or the word retention") from None


def _table(text: str) -> tuple[str, ...] | None:
    if not text:
        return None
    parts = tuple(text.split("."))
    if len(parts) < 2 or not all(parts):
        raise UsageError(f"K2_TRADES_TABLE={text!r} is not a table: write namespace.table, as in the catalog")
    return parts


def _columns(text: str) -> tuple[tuple[str, str], ...]:
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

"""The environment, read once per call into one frozen value.

Every variable that this project reads is named here. PyIceberg's and AWS's own variables are theirs:
they are read by those libraries.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

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
    """

    home: Path
    dagster_home: Path
    spark_remote: str | None
    start_date: date | None
    log_json: bool

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
        return cls(
            home=home,
            dagster_home=Path(environ.get("DAGSTER_HOME") or home / "dagster").absolute(),
            spark_remote=environ.get("SPARK_REMOTE") or None,
            start_date=_start_date(environ.get("K2_START_DATE") or ""),
            log_json=log == "json",
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

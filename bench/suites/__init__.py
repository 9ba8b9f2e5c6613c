"""The suites of measurements, one file each. A new suite is a new file and a new row here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.compare import Report
from bench.lake import Dataset
from bench.report import Row
from bench.suites import (
    all_timeframes,
    ingestion,
    one_day,
    planning,
    refresh,
    retention,
    ten_days,
    validation,
    wide_day,
    wide_refresh,
    wide_week,
    years,
)


@dataclass(frozen=True)
class Suite:
    """A suite: a description, and the function that measures data with a number of warm runs.

    An opt-in suite runs only if it is named.
    """

    about: str
    measure: Callable[[Dataset, int, Report], list[Row]]
    is_opt_in: bool = False


SUITES: Mapping[str, Suite] = {
    "day": Suite("1m of one day, without candles before, and again", one_day.measure),
    "tables": Suite("all five tables of one day", all_timeframes.measure),
    "ten-days": Suite("1m of ten days", ten_days.measure),
    "ingest": Suite("a CSV of one day into trades", ingestion.measure),
    "refresh": Suite("five minutes of new trades, in a small and a large lake", refresh.measure),
    "validate": Suite("every check of seven days of all five tables", validation.measure),
    "wide": Suite("all five tables of a day of 2,000 markets", wide_day.measure),
    "wide-refresh": Suite("new and late trades in a day of 2,000 markets", wide_refresh.measure),
    "years": Suite("the first refresh of ten years", years.measure),
    "wide-week": Suite(
        "a rebuild and every check of seven days of 2,000 markets, only if named", wide_week.measure, True
    ),
    "planning": Suite("the plan of a refresh over 100,000 data files, only if named", planning.measure, True),
    "retention": Suite("90 day-partitions of the 1m table dropped", retention.measure),
}

"""What can be measured, one file a suite. A further one is one more file and one more row here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.compare import Report
from bench.lake import Dataset
from bench.report import Row
from bench.suites import all_timeframes, ingestion, one_day, refresh, retention, ten_days, validation


@dataclass(frozen=True)
class Suite:
    """A suite: what it measures in words, and how, on data of a size, with so many warm runs."""

    about: str
    measure: Callable[[Dataset, int, Report], list[Row]]


SUITES: Mapping[str, Suite] = {
    "day": Suite("1m of one day, from no candles, and again", one_day.measure),
    "tables": Suite("all five tables of one day", all_timeframes.measure),
    "ten-days": Suite("1m of ten days", ten_days.measure),
    "ingest": Suite("a CSV of one day into trades", ingestion.measure),
    "refresh": Suite("five minutes of new trades, little and much stored", refresh.measure),
    "validate": Suite("every check of seven days of all five tables", validation.measure),
    "retention": Suite("90 day-partitions of the 1m table let go", retention.measure),
}

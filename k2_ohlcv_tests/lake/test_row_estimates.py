"""Estimates of rows from the spans of files."""

from datetime import UTC, datetime
from unittest.mock import patch

from pyiceberg.manifest import DataFile

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.lake.metadata.row_estimates import RowsPerDay

START = datetime(2024, 5, 1, tzinfo=UTC)


def test_files_of_one_span_are_spread_over_its_days_together() -> None:
    """The files of an external table without bounds all have the same span, of thousands of days."""
    file = LiveFile(DataFile.from_args(content=0, record_count=10), Interval(START, START + 4 * DAY))
    with patch.object(Grain, "partitions", autospec=True, side_effect=Grain.partitions) as calls:
        rows = RowsPerDay([file] * 100)
    assert calls.call_count == 1
    assert rows.estimate(Interval(START, START + 4 * DAY)) == 1_000
    assert rows.estimate(Interval(START + DAY, START + DAY + DAY / 2)) == 125

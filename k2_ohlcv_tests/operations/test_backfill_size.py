"""The measured size of a backfill's runs, and the file that keeps it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from k2_ohlcv.domain import run_size
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations import backfill_size
from k2_ohlcv.operations.backfill_size import BackfillSize, update_backfill_size
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

START = datetime(2024, 1, 1, tzinfo=UTC)


def add_days(lake: Lake, first: int, days: int, per_day: int) -> None:
    """Add some trades to each of several days."""
    lakes.add_trades(
        lake,
        [
            make_trade(f"{first + day}-{i}", START + (first + day) * DAY + timedelta(minutes=i))
            for day in range(days)
            for i in range(per_day)
        ],
    )


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of at most 100 trades."""
    monkeypatch.setattr(
        backfill_size, "partitions_per_run", lambda rows: run_size.partitions_per_run(rows, 100)
    )


@pytest.mark.usefixtures("small_runs")
def test_the_busiest_days_set_the_size(lake: Lake, tmp_path: Path) -> None:
    """Two trades a day for two months, then 20 a day: five busy days are 100 trades."""
    add_days(lake, 0, 60, 2)
    size = update_backfill_size(lake.trades(), tmp_path)
    assert size == BackfillSize(trades=120, days=50, months=1)
    assert BackfillSize.load(tmp_path) == size
    assert [size.partitions(grain) for grain in Grain] == [50, 1]
    add_days(lake, 60, 10, 20)
    assert update_backfill_size(lake.trades(), tmp_path) == BackfillSize(trades=320, days=5, months=1)


def test_it_is_measured_again_after_a_tenth_more(lake: Lake, tmp_path: Path) -> None:
    """A little growth changes nothing, and lists no file."""
    add_days(lake, 0, 20, 1)
    assert update_backfill_size(lake.trades(), tmp_path)
    add_days(lake, 20, 2, 1)
    assert update_backfill_size(lake.trades(), tmp_path) is None
    add_days(lake, 22, 1, 1)
    size = update_backfill_size(lake.trades(), tmp_path)
    assert size
    assert size.trades == 23


def test_an_empty_table_is_not_measured(lake: Lake, tmp_path: Path) -> None:
    assert update_backfill_size(lake.trades(), tmp_path) is None
    assert BackfillSize.load(tmp_path) is None
    assert list(tmp_path.glob("*.json")) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"trades": 1, "days": 0, "months": 1}', "nonsense"])
def test_a_file_that_cannot_be_read_counts_as_missing(tmp_path: Path, text: str) -> None:
    (tmp_path / "backfill.json").write_text(text)
    assert BackfillSize.load(tmp_path) is None

"""Ingestion end to end: what it adds, rejects and reports."""

import gzip
import shutil
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.domain.intervals import Interval, day_start
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.sources import sample
from k2_ohlcv.sources.staging.rejected_buffer import TOO_LATE
from k2_ohlcv_tests.support import table_history
from k2_ohlcv_tests.support.ingested import (
    CSV_HEADER,
    START,
    IngestFiles,
    outcomes,
    read_columns,
    read_rejected,
)

REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"


def test_the_sample_is_added_once(lake: Lake, ingest_files: IngestFiles) -> None:
    """A second ingestion adds and commits nothing, and reports the shared timestamps."""
    exchange, symbol = sample.MARKET
    first = ingest_files(sample.sample_trades_file(), exchange=exchange, symbol=symbol)
    assert outcomes(first) == (99_982, 0, 0, 18)
    assert (first.first, first.last) == (
        datetime(2013, 11, 25, tzinfo=UTC),
        datetime(2013, 12, 1, 16, 2, 5, tzinfo=UTC),
    )
    assert first.shared == (0, 0)
    assert list(first.per_day) == [date(2013, 11, d) for d in range(25, 31)] + [date(2013, 12, 1)]
    before = [len(table.snapshots()) for table in (lake.trades(), lake.rejected())]
    assert before == [1, 1]
    second = ingest_files(sample.sample_trades_file(), exchange=exchange, symbol=symbol)
    assert outcomes(second) == (0, 99_982, 0, 18)
    assert second.shared[0] == 99_982
    assert second.snapshot == first.snapshot
    assert [len(table.snapshots()) for table in (lake.trades(), lake.rejected())] == before
    assert len(read_columns(lake)) == 99_982
    assert len({row[0] for row in read_columns(lake)}) == 99_982


def test_files_within_a_day_are_sorted_by_time(lake: Lake, ingest_files: IngestFiles) -> None:
    """Data files are sorted by time, whatever the order of the landing file."""
    ingest_files(CSV_HEADER + "".join(f"{START + (i * 7919) % 100_000},1,1,{i}\n" for i in range(3000)))
    for task in lake.trades().scan().plan_files():
        with lake.trades().io.new_input(task.file.file_path).open() as file:
            values = pq.read_table(file, columns=["timestamp"])["timestamp"].to_pylist()
        assert values == sorted(values)
        assert len({v.date() for v in values}) == 1


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="shared/data is not beside the repository")
def test_the_real_binance_files(lake: Lake, ingest_files: IngestFiles, tmp_path: Path) -> None:
    """Two days of two markets are ingested together, each market found by its landing path."""
    landing = tmp_path / "landing"
    for file in (REAL_DATA / "binance-trades-2024" / "spot").glob("*.zip"):
        folder = landing / "BINANCE" / file.name.split("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    files = sorted(landing.rglob("*.zip"))
    report = ingest_files(*files, exchange=None, symbol=None, landing=landing)
    assert outcomes(report) == (9738 + 10_166 + 6098 + 8417, 0, 0, 0)
    assert report.per_day == {date(2024, 8, 8): 9738 + 6098, date(2024, 8, 9): 10_166 + 8417}
    assert len(lake.trades().snapshots()) == 1
    assert set(read_columns(lake, "exchange", "symbol")) == {("BINANCE", "BTCUSDT"), ("BINANCE", "ETHUSDT")}
    report = ingest_files(*files, exchange=None, symbol=None, landing=landing)
    assert outcomes(report) == (0, 34_419, 0, 0)


def test_chosen_days(lake: Lake, ingest_files: IngestFiles) -> None:
    """Rows of other days are not counted, valid or not. Rows without a readable time are always counted."""
    rows = ["2024-08-08T23:59:59.999999Z,1,1", "2024-08-09T00:00:00Z,2,1", "2024-08-09T10:00:00Z,-1,1"]
    rows += ["2024-08-08T10:00:00Z,-1,1", "2024-08-10T00:00:00Z,3,1", "yesterday,1,1"]
    day = Interval(day_start(date(2024, 8, 9)), day_start(date(2024, 8, 10)))
    report = ingest_files("timestamp,price,amount\n" + "\n".join(rows), days=[day])
    assert outcomes(report) == (1, 0, 0, 2)
    assert [row[2] for row in read_columns(lake)] == [Decimal(2)]
    assert report.first == report.last == day_start(date(2024, 8, 9))
    assert [row["line"] for row in read_rejected(lake)] == [4, 7]


def test_a_file_of_bad_rows_alone(lake: Lake, ingest_files: IngestFiles) -> None:
    """The file is read, every row is rejected, and no trade is added."""
    report = ingest_files("timestamp,price,amount\n" + "".join(f"{START},0,{i}\n" for i in range(1, 400)))
    assert outcomes(report) == (0, 0, 0, 399)
    assert (report.first, report.last, report.snapshot) == (None, None, None)
    assert report.as_json() == {
        "read": 399,
        "added": 0,
        "known": 0,
        "conflicts": 0,
        "rejected": 399,
        "first": None,
        "last": None,
        "snapshot": None,
        "shared_timestamps": {"rows": 0, "timestamps": 0},
        "skipped": {},
    }
    assert len(read_rejected(lake)) == 399


def test_a_bad_file_changes_no_table(lake: Lake, ingest_files: IngestFiles, tmp_path: Path) -> None:
    """A file that breaks off at its end undoes good files of the same call too."""
    good = tmp_path / "good.csv"
    good.write_text(CSV_HEADER + f"{START},1,1,a\n{START},0,1,b\n")
    broken = tmp_path / "broken.csv.gz"
    content = gzip.compress(
        b"".join(b"%d,%d.5,1\n" % (START + i, i * 7919 % 10_007 + 1) for i in range(50_000))
    )
    broken.write_bytes(content[:-9])
    with pytest.raises(BadFileError, match=r"broken\.csv\.gz"):
        ingest_files(good, broken)
    assert [p.name for p in (tmp_path / "work").iterdir()] == [".lock"]
    assert lake.trades().current_snapshot() is None
    assert lake.rejected().current_snapshot() is None
    broken.write_bytes(content)
    assert outcomes(ingest_files(good, broken)) == (50_001, 0, 0, 1)
    with pytest.raises(UsageError, match="at least one"):
        ingest_files()


def test_a_file_that_grows_leaves_no_wrong_row(lake: Lake, ingest_files: IngestFiles) -> None:
    """A file cut at any byte and then whole gives the table of the whole file, with and without ids."""
    for header, end in ((CSV_HEADER, ",{}"), ("timestamp,price,amount\n", "")):
        content = header + "".join(f"{START + i // 2},1{i},12.5{end.format(i)}\n" for i in range(4))
        symbol = f"S{end}"
        for cut in [*range(len(header) + 1, len(content), 17), len(content) - 1]:
            report = ingest_files(content[:cut], symbol=symbol)
            cut_line = content[:cut].count("\n") + 1
            unterminated = {} if content[:cut].endswith("\n") else {0: cut_line}
            assert list(report.unterminated.values()) == list(unterminated.values())
        assert ingest_files(content, symbol=symbol).unterminated == {}
        quantities = [q for s, q in read_columns(lake, "symbol", "quantity") if s == symbol]
        assert quantities == [Decimal("12.5")] * 4
    assert {row["reason"] for row in read_rejected(lake)} == {"unterminated"}


def test_progress_and_small_batches(lake: Lake, ingest_files: IngestFiles) -> None:
    """A file of several days is committed in contiguous batches, and progress is reported."""
    text = CSV_HEADER + "".join(f"{START + i * 3600},1,1,{i}\n" for i in range(100))
    events: list[tuple[str, int]] = []
    report = ingest_files(text, batch_rows=30, progress=lambda event, rows: events.append((event, rows)))
    assert report.added == 100
    assert events[0] == ("read", 100)
    assert events[-1] == ("committed", 100)
    assert len(lake.trades().snapshots()) == len(events) - 1 > 3
    assert outcomes(ingest_files(text)) == (0, 100, 0, 0)


def test_ingested_at_is_one_value_per_call(lake: Lake, ingest_files: IngestFiles) -> None:
    """All rows of one ingestion have the same `ingested_at`."""
    ingest_files(CSV_HEADER + "".join(f"{START + i * 86_400},1,1,{i}\n" for i in range(5)), batch_rows=1)
    ((ingested_at,),) = {(row[0],) for row in read_columns(lake, "ingested_at")}
    assert abs((datetime.now(UTC) - ingested_at).total_seconds()) < 60


def test_trades_before_frozen_before_are_rejected(lake: Lake, ingest_files: IngestFiles) -> None:
    """Such rows are recorded as rejected once. Their candles stay, as the only record of that time."""
    text = CSV_HEADER + f"{START},1.5,2,1\n{START + 60},1.5,2,2\n"
    table_history.freeze_trades(lake.writable_trades(), datetime.fromtimestamp(START + 60, UTC))
    for added in (1, 0):
        report = ingest_files(text)
        assert outcomes(report) == (added, 1 - added, 0, 1)
    (row,) = read_rejected(lake)
    assert (row["line"], row["reason"]) == (2, TOO_LATE)
    assert read_columns(lake, "trade_id") == [("2",)]


def test_external_trades_are_never_written(lake: Lake, ingest_files: IngestFiles) -> None:
    """Ingestion refuses a lake whose trades are in an external table."""
    lake.trades()
    external = Lake(lake.catalog, ExternalTradesConfig(("market_data", "gold_crypto_trades")))
    with pytest.raises(UsageError, match="never written to"):
        ingest(external, [sample.sample_trades_file()], workspace=Path("unused"))

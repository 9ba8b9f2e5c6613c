"""Ingestion end to end: what it adds, what it knows, what it refuses, what it reports."""

import gzip
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.domain.intervals import Interval, day_start
from k2_ohlcv.lake import dedupe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.operations.ingest import IngestReport, ingest
from k2_ohlcv.settings import Settings
from k2_ohlcv.sources import sample
from k2_ohlcv.sources.staging.rejected_buffer import TOO_LATE
from k2_ohlcv_tests.support import table_history

REAL = Path(__file__).parents[2].parent / "shared" / "data"
Ingest = Callable[..., IngestReport]
T = 1723161255
HEADER = "timestamp,price,quantity,trade_id\n"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(Settings.from_environ({"K2_HOME": str(tmp_path / "home")}))


@pytest.fixture
def run(lake: Lake, tmp_path: Path) -> Ingest:
    """Ingest texts (written as files `0.csv`, `1.csv` …) or paths."""

    def call(*files: str | Path, **options: Any) -> IngestReport:
        paths = []
        for i, file in enumerate(files):
            path = tmp_path / f"{i}.csv" if isinstance(file, str) else file
            if isinstance(file, str):
                path.write_text(file)
            paths.append(path)
        given: dict[str, Any] = {"exchange": "E", "symbol": "S", "workspace": tmp_path / "work"} | options
        report = ingest(lake, paths, **given)
        assert report.read == report.added + report.duplicates + report.conflicts + report.rejected
        assert sum(report.per_day.values()) == report.added
        assert [p.name for p in (tmp_path / "work").iterdir()] == [".lock"]
        return report

    return call


def stored(lake: Lake, *columns: str) -> list[tuple[Any, ...]]:
    columns = columns or ("trade_id", "timestamp", "price", "quantity")
    rows = lake.trades().scan(selected_fields=columns).to_arrow().to_pylist()
    return sorted(tuple(row[c] for c in columns) for row in rows)


def refused(lake: Lake) -> list[dict[str, Any]]:
    return sorted(lake.rejected().scan().to_arrow().to_pylist(), key=lambda row: (row["source"], row["line"]))


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    return report.added, report.duplicates, report.conflicts, report.rejected


def test_the_sample_goes_in_once(lake: Lake, run: Ingest) -> None:
    """The second time adds nothing, commits nothing, and says whose times it met."""
    exchange, symbol = sample.MARKET
    first = run(sample.sample_trades_file(), exchange=exchange, symbol=symbol)
    assert counts(first) == (99_982, 0, 0, 18)
    assert (first.first, first.last) == (
        datetime(2013, 11, 25, tzinfo=UTC),
        datetime(2013, 12, 1, 16, 2, 5, tzinfo=UTC),
    )
    assert first.shared == (0, 0)
    assert list(first.per_day) == [date(2013, 11, d) for d in range(25, 31)] + [date(2013, 12, 1)]
    before = [len(table.snapshots()) for table in (lake.trades(), lake.rejected())]
    assert before == [1, 1]
    second = run(sample.sample_trades_file(), exchange=exchange, symbol=symbol)
    assert counts(second) == (0, 99_982, 0, 18)
    assert second.shared[0] == 99_982
    assert second.snapshot == first.snapshot
    assert [len(table.snapshots()) for table in (lake.trades(), lake.rejected())] == before
    assert len(stored(lake)) == 99_982
    assert len({row[0] for row in stored(lake)}) == 99_982


def test_files_within_a_day_are_sorted_by_time(lake: Lake, run: Ingest) -> None:
    """Whatever the order of the file."""
    run(HEADER + "".join(f"{T + (i * 7919) % 100_000},1,1,{i}\n" for i in range(3000)))
    for task in lake.trades().scan().plan_files():
        with lake.trades().io.new_input(task.file.file_path).open() as file:
            values = pq.read_table(file, columns=["timestamp"])["timestamp"].to_pylist()
        assert values == sorted(values)
        assert len({v.date() for v in values}) == 1


@pytest.mark.skipif(not REAL.is_dir(), reason="shared/data is not beside the repository")
def test_the_real_binance_files(lake: Lake, run: Ingest) -> None:
    """Two days of two markets at once, found by their landing path."""
    landing = lake_home(lake) / "landing"
    for file in (REAL / "binance-trades-2024" / "spot").glob("*.zip"):
        folder = landing / "BINANCE" / file.name.split("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    files = sorted(landing.rglob("*.zip"))
    report = run(*files, exchange=None, symbol=None, landing=landing)
    assert counts(report) == (9738 + 10_166 + 6098 + 8417, 0, 0, 0)
    assert report.per_day == {date(2024, 8, 8): 9738 + 6098, date(2024, 8, 9): 10_166 + 8417}
    assert len(lake.trades().snapshots()) == 1
    assert set(stored(lake, "exchange", "symbol")) == {
        ("BINANCE", "BTCUSDT"),
        ("BINANCE", "ETHUSDT"),
    }
    assert counts(run(*files, exchange=None, symbol=None, landing=landing)) == (0, 34_419, 0, 0)


def lake_home(lake: Lake) -> Path:
    return Path(lake.writable_trades().location().removeprefix("file://")).parents[2]


def test_an_overlapping_file_adds_what_is_new(lake: Lake, run: Ingest) -> None:
    """Known by its id, in the same batch or in the lake."""
    rows = [f"{T + i},{i + 1},1,{i}\n" for i in range(10)]
    assert counts(run(HEADER + "".join(rows[:6]))) == (6, 0, 0, 0)
    assert counts(run(HEADER + "".join(rows[3:] + rows[8:]))) == (4, 5, 0, 0)
    assert [row[0] for row in stored(lake)] == [str(i) for i in range(10)]


@pytest.mark.parametrize("piece_rows", [1, 7, 1000])
def test_large_stored_files_are_looked_through_in_pieces(
    run: Ingest, monkeypatch: pytest.MonkeyPatch, piece_rows: int
) -> None:
    """And no row of them is missed, at whatever edge of a piece it lies."""
    rows = [f"{T + i * i},{i + 1},1,{i}\n" for i in range(50)] + [f"{T},1,1,z\n"]
    run(HEADER + "".join(rows))
    monkeypatch.setattr(dedupe, "_PIECE_ROWS", piece_rows)
    assert counts(run(HEADER + "".join(rows))) == (0, 51, 0, 0)
    assert counts(run(HEADER + "".join(row.replace(",1,", ",2,", 1) for row in rows))) == (0, 0, 51, 0)


def test_ids_are_those_of_a_market(lake: Lake, run: Ingest) -> None:
    """The same id elsewhere is another trade."""
    text = HEADER + f"{T},1,1,7\n"
    for exchange, symbol in (("E", "S"), ("E", "S2"), ("E2", "S")):
        assert run(text, exchange=exchange, symbol=symbol).added == 1
    assert len(stored(lake)) == 3
    columns = "timestamp,price,quantity,trade_id,symbol\n" + f"{T},1,1,7,S\n{T},1,1,7,S2\n{T},1,1,7,S3\n"
    assert counts(run(columns, symbol=None)) == (1, 2, 0, 0)


def test_an_id_with_other_values_is_a_conflict(lake: Lake, run: Ingest) -> None:
    """What is stored stays; in one file the first line wins; each conflict is kept once."""
    base = HEADER + f"{T},1,1,a\n"
    run(base)
    text = (
        HEADER + f"{T},2,1,a\n{T},1,2,a\n{T + 1},1,1,a\n{T},1.0,1e0,a\n{T + 5},1,1,b\n{T},1,1,b\n{T},1,1,b\n"
    )
    for _ in range(2):
        report = run(text)
        assert (report.conflicts, report.rejected) == (5, 0)
    assert [(row[0], row[2]) for row in stored(lake)] == [("a", 1), ("b", 1)]
    assert stored(lake)[1][1] == datetime.fromtimestamp(T + 5, UTC)
    assert [(row["line"], row["reason"].split(":")[0]) for row in refused(lake)] == [
        (2, "conflict"),
        (3, "conflict"),
        (4, "conflict"),
        (7, "conflict"),
        (8, "conflict"),
    ]
    assert refused(lake)[0]["raw"] == "2024-08-08T23:54:15+00:00,2.00000000,1.00000000,a"
    assert (refused(lake)[0]["exchange"], refused(lake)[0]["symbol"]) == ("E", "S")


@pytest.mark.parametrize("apart", [1, 86_400])
def test_an_id_that_comes_back_a_day_later_is_a_conflict(run: Ingest, apart: int) -> None:
    """Ids are looked for one day either side."""
    run(HEADER + f"{T},1,1,a\n")
    assert counts(run(HEADER + f"{T + apart},1,1,a\n")) == (0, 0, 1, 0)
    assert counts(run(HEADER + f"{T - apart},1,1,a\n")) == (0, 0, 1, 0)


def test_equal_rows_without_ids_are_distinct_trades(lake: Lake, run: Ingest) -> None:
    """Their ids are the time and the ordinal among the market's rows of that time in the file."""
    text = f"timestamp,price,amount,symbol\n{T},1,1,A\n{T + 1},1,1,A\n{T},1,1,B\n{T},1,1,A\n{T},1,1,A\n"
    assert counts(run(text, symbol=None)) == (5, 0, 0, 0)
    assert stored(lake, "symbol", "trade_id") == [
        ("A", f"{T}000000-0"),
        ("A", f"{T}000000-1"),
        ("A", f"{T}000000-2"),
        ("A", f"{T + 1}000000-0"),
        ("B", f"{T}000000-0"),
    ]


def test_made_ids_that_meet_stored_times_are_reported(run: Ingest) -> None:
    """Equal or not, whatever ids are stored there; in the lake, or in an earlier file of the call."""
    header = "timestamp,price,amount\n"
    run(HEADER + f"{T + 9},1,1,native\n")
    first = header + f"{T},1,1\n{T},2,1\n{T + 1},1,1\n"
    assert run(first).shared == (0, 0)
    later = header + f"{T},1,1\n{T},3,1\n{T},4,1\n{T + 2},1,1\n{T + 9},1,1\n"
    report = run(later)
    assert counts(report) == (3, 1, 1, 0)
    assert report.shared == (4, 2)
    assert report.as_json()["shared_timestamps"] == {"rows": 4, "timestamps": 2}
    two = [
        header + f"{T + 100},1,1\n{T + 101},1,1\n",
        header + f"{T + 101},1,1\n{T + 101},5,1\n{T + 102},1,1\n",
    ]
    report = run(*two)
    assert counts(report) == (4, 1, 0, 0)
    assert report.shared == (2, 1)


def test_chosen_days(lake: Lake, run: Ingest) -> None:
    """Rows of other days are not counted, be they trades or not; rows of no day always are."""
    lines = ["2024-08-08T23:59:59.999999Z,1,1", "2024-08-09T00:00:00Z,2,1", "2024-08-09T10:00:00Z,-1,1"]
    lines += ["2024-08-08T10:00:00Z,-1,1", "2024-08-10T00:00:00Z,3,1", "yesterday,1,1"]
    day = Interval(day_start(date(2024, 8, 9)), day_start(date(2024, 8, 10)))
    report = run("timestamp,price,amount\n" + "\n".join(lines), days=[day])
    assert counts(report) == (1, 0, 0, 2)
    assert [row[2] for row in stored(lake)] == [Decimal(2)]
    assert report.first == report.last == day_start(date(2024, 8, 9))
    assert [row["line"] for row in refused(lake)] == [4, 7]


def test_a_file_of_nothing_but_bad_rows(lake: Lake, run: Ingest) -> None:
    """Is read, and adds nothing to the trades."""
    report = run("timestamp,price,amount\n" + "".join(f"{T},0,{i}\n" for i in range(1, 400)))
    assert counts(report) == (0, 0, 0, 399)
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
    }
    assert len(refused(lake)) == 399


def test_a_bad_file_leaves_the_tables_as_they_were(lake: Lake, run: Ingest, tmp_path: Path) -> None:
    """Even where others come before it, and where it breaks off only at its end."""
    good = tmp_path / "good.csv"
    good.write_text(HEADER + f"{T},1,1,a\n{T},0,1,b\n")
    broken = tmp_path / "broken.csv.gz"
    whole = gzip.compress(b"".join(b"%d,%d.5,1\n" % (T + i, i * 7919 % 10_007 + 1) for i in range(50_000)))
    broken.write_bytes(whole[:-9])
    with pytest.raises(BadFileError, match=r"broken\.csv\.gz"):
        run(good, broken)
    assert [p.name for p in (tmp_path / "work").iterdir()] == [".lock"]
    assert lake.trades().current_snapshot() is None
    assert lake.rejected().current_snapshot() is None
    broken.write_bytes(whole)
    assert counts(run(good, broken)) == (50_001, 0, 0, 1)
    with pytest.raises(UsageError, match="at least one"):
        run()


def test_a_file_that_grows_leaves_no_wrong_row(lake: Lake, run: Ingest) -> None:
    """Cut at every byte and then whole, with ids and without: the table is that of the whole file."""
    for header, end in ((HEADER, ",{}"), ("timestamp,price,amount\n", "")):
        whole = header + "".join(f"{T + i // 2},1{i},12.5{end.format(i)}\n" for i in range(4))
        symbol = f"S{end}"
        for cut in [*range(len(header) + 1, len(whole), 17), len(whole) - 1]:
            report = run(whole[:cut], symbol=symbol)
            cut_line = whole[:cut].count("\n") + 1
            want = {} if whole[:cut].endswith("\n") else {0: cut_line}
            assert list(report.unterminated.values()) == list(want.values())
        assert run(whole, symbol=symbol).unterminated == {}
        quantities = [q for s, q in stored(lake, "symbol", "quantity") if s == symbol]
        assert quantities == [Decimal("12.5")] * 4
    assert {row["reason"] for row in refused(lake)} == {"unterminated"}


def test_progress_and_small_batches(lake: Lake, run: Ingest) -> None:
    """A file of several days commits in contiguous batches, and says how far it is."""
    text = HEADER + "".join(f"{T + i * 3600},1,1,{i}\n" for i in range(100))
    told: list[tuple[str, int]] = []
    report = run(text, batch_rows=30, progress=lambda event, rows: told.append((event, rows)))
    assert report.added == 100
    assert told[0] == ("read", 100)
    assert told[-1] == ("committed", 100)
    assert len(lake.trades().snapshots()) == len(told) - 1 > 3
    assert counts(run(text)) == (0, 100, 0, 0)


def test_the_clock_is_one_for_the_call(lake: Lake, run: Ingest) -> None:
    """All rows of one ingestion have the same `ingested_at`."""
    run(HEADER + "".join(f"{T + i * 86_400},1,1,{i}\n" for i in range(5)), batch_rows=1)
    ((clock,),) = {(row[0],) for row in stored(lake, "ingested_at")}
    assert abs((datetime.now(UTC) - clock).total_seconds()) < 60


def test_trades_of_a_frozen_time_come_too_late(lake: Lake, run: Ingest) -> None:
    """Their candles are the only record left: the rows are kept apart, and said, once."""
    text = HEADER + f"{T},1.5,2,1\n{T + 60},1.5,2,2\n"
    table_history.freeze_trades(lake.writable_trades(), datetime.fromtimestamp(T + 60, UTC))
    for added in (1, 0):
        report = run(text)
        assert counts(report) == (added, 1 - added, 0, 1)
    (row,) = refused(lake)
    assert (row["line"], row["reason"]) == (2, TOO_LATE)
    assert stored(lake, "trade_id") == [("2",)]


def test_someone_elses_trades_are_never_written(lake: Lake, run: Ingest) -> None:
    lake.trades()
    theirs = Lake(lake.catalog, ExternalTradesConfig(("market_data", "gold_crypto_trades")))
    with pytest.raises(UsageError, match="never written to"):
        ingest(theirs, [sample.sample_trades_file()], workspace=Path("unused"))

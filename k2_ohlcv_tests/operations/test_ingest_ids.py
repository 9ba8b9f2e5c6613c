"""Trade ids: duplicates, conflicts, and ids generated for rows without one."""

from datetime import UTC, datetime

import pytest

from k2_ohlcv.lake import candidate_rows
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv_tests.support.ingested import (
    CSV_HEADER,
    START,
    IngestFiles,
    outcomes,
    read_columns,
    read_rejected,
)


def test_an_overlapping_file_adds_new_trades(lake: Lake, ingest_files: IngestFiles) -> None:
    """A duplicate is found by its id, in the same batch and in the lake."""
    rows = [f"{START + i},{i + 1},1,{i}\n" for i in range(10)]
    assert outcomes(ingest_files(CSV_HEADER + "".join(rows[:6]))) == (6, 0, 0, 0)
    assert outcomes(ingest_files(CSV_HEADER + "".join(rows[3:] + rows[8:]))) == (4, 5, 0, 0)
    assert [row[0] for row in read_columns(lake)] == [str(i) for i in range(10)]


@pytest.mark.parametrize("piece_rows", [1, 7, 1000])
def test_large_stored_files_are_read_in_pieces(
    ingest_files: IngestFiles, monkeypatch: pytest.MonkeyPatch, piece_rows: int
) -> None:
    """No row is missed at the edge of a piece, whatever the size of a piece."""
    rows = [f"{START + i * i},{i + 1},1,{i}\n" for i in range(50)] + [f"{START},1,1,z\n"]
    ingest_files(CSV_HEADER + "".join(rows))
    monkeypatch.setattr(candidate_rows, "_PIECE_ROWS", piece_rows)
    assert outcomes(ingest_files(CSV_HEADER + "".join(rows))) == (0, 51, 0, 0)
    assert outcomes(ingest_files(CSV_HEADER + "".join(row.replace(",1,", ",2,", 1) for row in rows))) == (
        0,
        0,
        51,
        0,
    )


def test_ids_are_unique_per_market(lake: Lake, ingest_files: IngestFiles) -> None:
    """The same id in another market is another trade."""
    content = CSV_HEADER + f"{START},1,1,7\n"
    for exchange, symbol in (("E", "S"), ("E", "S2"), ("E2", "S")):
        assert ingest_files(content, exchange=exchange, symbol=symbol).added == 1
    assert len(read_columns(lake)) == 3
    columns = (
        "timestamp,price,quantity,trade_id,symbol\n"
        + f"{START},1,1,7,S\n{START},1,1,7,S2\n{START},1,1,7,S3\n"
    )
    assert outcomes(ingest_files(columns, symbol=None)) == (1, 2, 0, 0)


def test_an_id_with_other_values_is_a_conflict(lake: Lake, ingest_files: IngestFiles) -> None:
    """The stored trade stays, and in one file the first row wins. Each conflict is recorded once."""
    base = CSV_HEADER + f"{START},1,1,a\n"
    ingest_files(base)
    content = (
        f"{CSV_HEADER}{START},2,1,a\n{START},1,2,a\n{START + 1},1,1,a\n{START},1.0,1e0,a\n"
        f"{START + 5},1,1,b\n{START},1,1,b\n{START},1,1,b\n"
    )
    for _ in range(2):
        report = ingest_files(content)
        assert (report.conflicts, report.rejected) == (5, 0)
    assert [(row[0], row[2]) for row in read_columns(lake)] == [("a", 1), ("b", 1)]
    assert read_columns(lake)[1][1] == datetime.fromtimestamp(START + 5, UTC)
    assert [(row["line"], row["reason"].split(":")[0]) for row in read_rejected(lake)] == [
        (2, "conflict"),
        (3, "conflict"),
        (4, "conflict"),
        (7, "conflict"),
        (8, "conflict"),
    ]
    assert read_rejected(lake)[0]["raw"] == "2024-08-08T23:54:15+00:00,2.00000000,1.00000000,a"
    assert (read_rejected(lake)[0]["exchange"], read_rejected(lake)[0]["symbol"]) == ("E", "S")


@pytest.mark.parametrize("apart", [1, 86_400])
def test_a_repeated_id_a_day_apart_is_a_conflict(ingest_files: IngestFiles, apart: int) -> None:
    """Ids are compared over at least one day either side."""
    ingest_files(CSV_HEADER + f"{START},1,1,a\n")
    assert outcomes(ingest_files(CSV_HEADER + f"{START + apart},1,1,a\n")) == (0, 0, 1, 0)
    assert outcomes(ingest_files(CSV_HEADER + f"{START - apart},1,1,a\n")) == (0, 0, 1, 0)


def test_equal_rows_without_ids_are_distinct_trades(lake: Lake, ingest_files: IngestFiles) -> None:
    """A generated id has the time, and the ordinal among the market's rows of that time in the file."""
    times = [(START, "A"), (START + 1, "A"), (START, "B"), (START, "A"), (START, "A")]
    content = "timestamp,price,amount,symbol\n" + "".join(f"{at},1,1,{symbol}\n" for at, symbol in times)
    assert outcomes(ingest_files(content, symbol=None)) == (5, 0, 0, 0)
    assert read_columns(lake, "symbol", "trade_id") == [
        ("A", f"{START}000000-0"),
        ("A", f"{START}000000-1"),
        ("A", f"{START}000000-2"),
        ("A", f"{START + 1}000000-0"),
        ("B", f"{START}000000-0"),
    ]


def test_generated_ids_at_stored_times_are_reported(ingest_files: IngestFiles) -> None:
    """Rows without ids at a stored timestamp are counted, whether stored earlier or in this call."""
    header = "timestamp,price,amount\n"
    ingest_files(CSV_HEADER + f"{START + 9},1,1,native\n")
    first = header + f"{START},1,1\n{START},2,1\n{START + 1},1,1\n"
    assert ingest_files(first).shared == (0, 0)
    later = header + f"{START},1,1\n{START},3,1\n{START},4,1\n{START + 2},1,1\n{START + 9},1,1\n"
    report = ingest_files(later)
    assert outcomes(report) == (3, 1, 1, 0)
    assert report.shared == (4, 2)
    assert report.as_json()["shared_timestamps"] == {"rows": 4, "timestamps": 2}
    overlapping_files = [
        header + f"{START + 100},1,1\n{START + 101},1,1\n",
        header + f"{START + 101},1,1\n{START + 101},5,1\n{START + 102},1,1\n",
    ]
    report = ingest_files(*overlapping_files)
    assert outcomes(report) == (4, 1, 0, 0)
    assert report.shared == (2, 1)

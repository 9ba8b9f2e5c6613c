"""An id is compared over its whole market, at any distance of time and for any cut of the input."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.lake import dedupe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata import id_ranges
from k2_ohlcv.operations.delete_trades import Selection, delete_trades
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.operations.replace_trades import replace_trades
from k2_ohlcv.sources import reader
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.support.ingested import CSV_HEADER, DAY_SECONDS, MIDNIGHT, PriceRows, ingest_rows


def list_stored(lake: Lake) -> list[tuple[str, int, int]]:
    """Id, time in seconds and price of each stored trade, sorted."""
    return sorted((t.trade_id, int(t.timestamp.timestamp()), int(t.price)) for t in lakes.all_trades(lake))


@pytest.mark.parametrize("days", [0, 1, 2, 30, 400])
def test_an_id_is_found_over_any_distance(lake: Lake, tmp_path: Path, days: int) -> None:
    """The result is the same in one file, in two batches and in two calls."""
    first, second = (MIDNIGHT, 1, "7"), (MIDNIGHT + days * DAY_SECONDS + 1, 1, "7")
    whole = ingest_rows(lake, tmp_path, [first, second])
    assert (whole.added, whole.conflicts) == (1, 1)
    lakes.drop_tables(lake)
    batched = ingest_rows(lake, tmp_path, [first, second], batch_rows=1)
    assert (batched.added, batched.conflicts) == (1, 1)
    lakes.drop_tables(lake)
    assert ingest_rows(lake, tmp_path, [first]).added == 1
    assert ingest_rows(lake, tmp_path, [second]).conflicts == 1
    assert ingest_rows(lake, tmp_path, [second], symbol="other").added == 1


@st.composite
def deliveries(draw: st.DrawFn, are_equal: bool) -> tuple[PriceRows, list[tuple[PriceRows, int]]]:
    """Rows of few ids over a month, and files that together contain every row, each with a batch size."""
    ids = st.sampled_from(["1", "2", "9", "10", "11", "99", "100", "a", "b0", "Z" * 70])
    cells = st.tuples(st.integers(MIDNIGHT, MIDNIGHT + 30 * DAY_SECONDS), st.integers(1, 3), ids)
    rows = draw(st.lists(cells, min_size=1, max_size=25))
    if are_equal:
        rows = list({i: (t, p, i) for t, p, i in rows}.values())
    files = draw(st.lists(st.lists(st.sampled_from(rows), min_size=1, max_size=20), max_size=3))
    files.insert(draw(st.integers(0, len(files))), draw(st.permutations(rows)))
    return rows, [(file, draw(st.integers(1, 30))) for file in files]


@settings(max_examples=15)
@given(deliveries(are_equal=True), st.booleans())
def test_equal_rows_give_one_table_in_any_cut_and_order(delivery: Any, saves_ranges: bool) -> None:
    """If every row of an id is equal, files and batches do not change the table."""
    rows, files = delivery
    with lakes.temporary_lake() as (lake, folder), pytest.MonkeyPatch.context() as patch:
        if saves_ranges:
            patch.setattr(id_ranges, "_MAX_UNSAVED_FILES", 1)
        reports = [ingest_rows(lake, folder, file, batch_rows=size) for file, size in files]
        assert list_stored(lake) == sorted((i, t, p) for t, p, i in rows)
        assert sum(r.conflicts for r in reports) == 0


@settings(max_examples=15)
@given(deliveries(are_equal=False))
def test_rows_that_differ_store_each_id_once_and_report_every_other(delivery: Any) -> None:
    """Each id is stored once, and each other row is recorded as a conflict."""
    rows, files = delivery
    with lakes.temporary_lake() as (lake, folder):
        reports = [ingest_rows(lake, folder, file, batch_rows=size) for file, size in files]
        stored = list_stored(lake)
        assert [i for i, _, _ in stored] == sorted({i for _, _, i in rows})
        assert set(stored) <= {(i, t, p) for t, p, i in rows}
        for (file, _), report in zip(files, reports, strict=True):
            assert report.added + report.duplicates + report.conflicts == len(file)
        conflicts = {(i, t, p) for t, p, i in rows} - set(stored)
        rejected = lake.rejected().scan().to_arrow()["raw"].to_pylist()
        assert len({tuple(raw.split(",")) for raw in rejected}) == len(conflicts)


moments = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), min_size=1, max_size=30)


@settings(max_examples=10)
@given(moments, st.sets(st.integers(0, 40), max_size=4), st.randoms(use_true_random=False))
def test_without_ids_cuts_between_timestamps_give_one_table(rows: Any, cuts: set[int], random: Any) -> None:
    """Files may be in any order if the rows of one timestamp are in one file."""
    files: dict[int, list[tuple[int, int]]] = {}
    for t, p in rows:
        files.setdefault(sum(t > cut for cut in cuts), []).append((t, p))
    tables = []
    for delivery in ([rows], random.sample(list(files.values()), len(files))):
        with lakes.temporary_lake() as (lake, folder):
            for number, file in enumerate(delivery):
                path = folder / f"{number}.csv"
                lines = "".join(f"{MIDNIGHT + t * 3600},{p},1\n" for t, p in file)
                path.write_text(f"timestamp,price,amount\n{lines}")
                report = ingest(lake, [path], exchange="E", symbol="S", workspace=folder / "w")
                assert (report.added, report.shared) == (len(file), (0, 0))
            tables.append(list_stored(lake))
    assert tables[0] == tables[1]


def test_a_cut_inside_one_timestamp_is_reported(lake: Lake, tmp_path: Path) -> None:
    """The second file's row at the shared timestamp is counted."""
    for number, added in enumerate((2, 0)):
        path = tmp_path / f"{number}.csv"
        path.write_text(
            f"timestamp,price,amount\n{MIDNIGHT},{number + 1},1\n" + (f"{MIDNIGHT},9,1\n" if added else "")
        )
        report = ingest(lake, [path], exchange="E", symbol="S", workspace=tmp_path / "work")
        assert report.added == added
    assert report.shared == (1, 1)


def test_a_late_row_does_not_hide_one_that_can_be_stored(lake: Lake, tmp_path: Path) -> None:
    """The first row of an id is too late. The next row is stored, for any cut."""
    table_history.freeze_trades(lake.writable_trades(), datetime.fromtimestamp(MIDNIGHT, UTC))
    report = ingest_rows(
        lake, tmp_path, [(MIDNIGHT - 60, 1, "1"), (MIDNIGHT + 60, 2, "1"), (MIDNIGHT + 61, 2, "1")]
    )
    assert (report.added, report.conflicts, report.rejected) == (1, 1, 1)
    assert list_stored(lake) == [("1", MIDNIGHT + 60, 2)]


def test_daily_ids_are_compared_within_their_day(lake: Lake, tmp_path: Path) -> None:
    """A format may say that its ids begin anew each day."""
    ingest_rows(lake, tmp_path, [(MIDNIGHT, 1, "1"), (MIDNIGHT + DAY_SECONDS, 1, "2")])
    times = pa.array([MIDNIGHT, MIDNIGHT + DAY_SECONDS, MIDNIGHT + DAY_SECONDS + 1], pa.int64())
    rows = pa.table(
        {
            "market": pa.array([0, 0, 0], pa.int32()),
            "trade_id": ["1", "1", "2"],
            "timestamp": pc.multiply(times, 10**6).cast(pa.timestamp("us", "UTC")),
            "price": pa.array([Decimal(1)] * 3, pa.decimal128(18, 8)),
            "quantity": pa.array([Decimal(1)] * 3, pa.decimal128(19, 8)),
        }
    )
    for daily, is_new in ((np.ones(3, bool), [False, True, False]), (None, [False, False, False])):
        incoming = dedupe.TradeBatch(rows, [("E", "S")], np.zeros(3, bool), np.arange(3), daily)
        assert dedupe.find_duplicates(lake.trades(), incoming).new.tolist() == is_new


def test_daily_ids_are_unique_in_a_day(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is true in one file, in batches and on repetition."""
    real = reader.detect_format

    def daily(*arguments: Any) -> Any:
        layout, first = real(*arguments)
        return replace(layout, daily_ids=True), first

    monkeypatch.setattr(reader, "detect_format", daily)
    rows = [
        (MIDNIGHT, 1, "1"),
        (MIDNIGHT + 5, 1, "2"),
        (MIDNIGHT + DAY_SECONDS, 1, "1"),
        (MIDNIGHT + DAY_SECONDS + 5, 9, "1"),
    ]
    variants: tuple[dict[str, Any], ...] = ({}, {"batch_rows": 1})
    for options in variants:
        lakes.drop_tables(lake)
        report = ingest_rows(lake, tmp_path, rows, **options)
        assert (report.added, report.conflicts) == (3, 1)
        report = ingest_rows(lake, tmp_path, rows, **options)
        assert (report.added, report.duplicates, report.conflicts) == (0, 3, 1)


def test_a_row_that_another_engine_deleted_is_new_again(lake: Lake, tmp_path: Path) -> None:
    """The data file and its id range still contain the deleted row."""
    ingest_rows(lake, tmp_path, [(MIDNIGHT, 1, "1"), (MIDNIGHT + 1, 1, "2")])
    (file,) = [task.file for task in lake.trades().scan().plan_files()]
    external_tables.delete_positions(lake.trades(), [(file.file_path, 0)], partition=file.partition)
    assert list_stored(lake) == [("2", MIDNIGHT + 1, 1)]
    report = ingest_rows(lake, tmp_path, [(MIDNIGHT, 1, "1"), (MIDNIGHT + 1, 1, "2")])
    assert (report.added, report.duplicates) == (1, 1)
    assert delete_trades(lake, Selection(("E", "S")), apply=True).removed == 2
    assert list_stored(lake) == []


def test_equality_deletes_are_rejected_by_name(lake: Lake, tmp_path: Path) -> None:
    """Ingestion and corrections refuse trades with equality deletes, and commit nothing."""
    ingest_rows(lake, tmp_path, [(MIDNIGHT, 1, "1")])
    (file,) = [task.file for task in lake.trades().scan().plan_files()]
    external_tables.delete_equal(lake.trades(), ["trade_id"], [("1",)], partition=file.partition)
    before = lake.trades().metadata.current_snapshot_id
    path = tmp_path / "revised.csv"
    path.write_text(f"{CSV_HEADER}{MIDNIGHT},2,1,1\n")
    for operation in (
        lambda: ingest_rows(lake, tmp_path, [(MIDNIGHT, 1, "2")]),
        lambda: delete_trades(lake, Selection(("E", "S")), apply=True),
        lambda: replace_trades(lake, path, exchange="E", symbol="S", workspace=tmp_path, apply=True),
    ):
        with pytest.raises(TableSpecError, match=r"1 equality delete files.*rewrite_data_files"):
            operation()
    assert lake.trades().metadata.current_snapshot_id == before

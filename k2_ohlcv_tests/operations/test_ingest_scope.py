"""An id is looked for in its whole market, over any distance of time, however the input was cut."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.io.pyarrow import ArrowScan

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.lake import candidate_files, dedupe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata import id_ranges
from k2_ohlcv.operations.delete_trades import Selection, delete_trades
from k2_ohlcv.operations.ingest import IngestReport, ingest
from k2_ohlcv.operations.replace_trades import replace_trades
from k2_ohlcv.sources import reader
from k2_ohlcv_tests.support import external_tables, lakes, table_history

T = 1723075200  # 2024-08-08 00:00 UTC
DAY = 86_400
HEADER = "timestamp,price,quantity,trade_id\n"
Rows = list[tuple[int, int, str]]


@contextmanager
def lake_in(folder: str) -> Iterator[Lake]:
    lake = lakes.open_lake(Path(folder))
    try:
        yield lake
    finally:
        lake.catalog.close()


def put(lake: Lake, folder: Path, rows: Rows, symbol: str = "S", **options: Any) -> IngestReport:
    """Ingest rows of time, price and id as one file."""
    path = folder / f"{uuid4()}.csv"
    path.write_text(HEADER + "".join(f"{t},{p},1,{i}\n" for t, p, i in rows))
    return ingest(lake, [path], exchange="E", symbol=symbol, workspace=folder / "work", **options)


def stored(lake: Lake) -> list[tuple[str, int, int]]:
    rows = lake.trades().scan().to_arrow().to_pylist()
    return sorted((r["trade_id"], int(r["timestamp"].timestamp()), int(r["price"])) for r in rows)


@pytest.mark.parametrize("days", [0, 1, 2, 30, 400])
def test_an_id_is_found_over_any_distance(lake: Lake, tmp_path: Path, days: int) -> None:
    """In one file, in two batches of one call, and in two calls alike."""
    first, second = (T, 1, "7"), (T + days * DAY + 1, 1, "7")
    once = put(lake, tmp_path, [first, second])
    assert (once.added, once.conflicts) == (1, 1)
    lakes.drop_tables(lake)
    cut = put(lake, tmp_path, [first, second], batch_rows=1)
    assert (cut.added, cut.conflicts) == (1, 1)
    lakes.drop_tables(lake)
    assert put(lake, tmp_path, [first]).added == 1
    assert put(lake, tmp_path, [second]).conflicts == 1
    assert put(lake, tmp_path, [second], symbol="other").added == 1


@st.composite
def deliveries(draw: st.DrawFn, are_equal: bool) -> tuple[Rows, list[tuple[Rows, int]]]:
    """Rows of few ids over a month, and files that together have each of them, with the rows of a batch."""
    ids = st.sampled_from(["1", "2", "9", "10", "11", "99", "100", "a", "b0", "Z" * 70])
    cells = st.tuples(st.integers(T, T + 30 * DAY), st.integers(1, 3), ids)
    rows = draw(st.lists(cells, min_size=1, max_size=25))
    if are_equal:
        rows = list({i: (t, p, i) for t, p, i in rows}.values())
    files = draw(st.lists(st.lists(st.sampled_from(rows), min_size=1, max_size=20), max_size=3))
    files.insert(draw(st.integers(0, len(files))), draw(st.permutations(rows)))
    return rows, [(file, draw(st.integers(1, 30))) for file in files]


@settings(max_examples=15)
@given(deliveries(are_equal=True), st.booleans())
def test_equal_rows_give_one_table_in_any_cut_and_order(delivery: Any, keeps: bool) -> None:
    rows, files = delivery
    with (
        tempfile.TemporaryDirectory() as folder,
        lake_in(folder) as lake,
        pytest.MonkeyPatch.context() as patch,
    ):
        if keeps:
            patch.setattr(id_ranges, "_MAX_UNSAVED_FILES", 1)
        reports = [put(lake, Path(folder), file, batch_rows=size) for file, size in files]
        assert stored(lake) == sorted((i, t, p) for t, p, i in rows)
        assert sum(r.conflicts for r in reports) == 0


@settings(max_examples=15)
@given(deliveries(are_equal=False))
def test_rows_that_differ_store_each_id_once_and_report_every_other(delivery: Any) -> None:
    rows, files = delivery
    with tempfile.TemporaryDirectory() as folder, lake_in(folder) as lake:
        reports = [put(lake, Path(folder), file, batch_rows=size) for file, size in files]
        kept = stored(lake)
        assert [i for i, _, _ in kept] == sorted({i for _, _, i in rows})
        assert set(kept) <= {(i, t, p) for t, p, i in rows}
        for (file, _), report in zip(files, reports, strict=True):
            assert report.added + report.duplicates + report.conflicts == len(file)
        others = {(i, t, p) for t, p, i in rows} - set(kept)
        refused = lake.rejected().scan().to_arrow()["raw"].to_pylist()
        assert len({tuple(raw.split(",")) for raw in refused}) == len(others)


moments = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), min_size=1, max_size=30)


@settings(max_examples=10)
@given(moments, st.sets(st.integers(0, 40), max_size=4), st.randoms(use_true_random=False))
def test_without_ids_cuts_between_timestamps_give_one_table(rows: Any, cuts: set[int], random: Any) -> None:
    """The files in any order, the rows of one timestamp in order."""
    files: dict[int, list[tuple[int, int]]] = {}
    for t, p in rows:
        files.setdefault(sum(t > cut for cut in cuts), []).append((t, p))
    tables = []
    for some in ([rows], random.sample(list(files.values()), len(files))):
        with tempfile.TemporaryDirectory() as folder, lake_in(folder) as lake:
            for number, file in enumerate(some):
                path = Path(folder, f"{number}.csv")
                lines = "".join(f"{T + t * 3600},{p},1\n" for t, p in file)
                path.write_text(f"timestamp,price,amount\n{lines}")
                report = ingest(lake, [path], exchange="E", symbol="S", workspace=Path(folder, "w"))
                assert (report.added, report.shared) == (len(file), (0, 0))
            tables.append(stored(lake))
    assert tables[0] == tables[1]


def test_a_cut_inside_one_timestamp_is_reported(lake: Lake, tmp_path: Path) -> None:
    for number, added in enumerate((2, 0)):
        path = tmp_path / f"{number}.csv"
        path.write_text(f"timestamp,price,amount\n{T},{number + 1},1\n" + (f"{T},9,1\n" if added else ""))
        report = ingest(lake, [path], exchange="E", symbol="S", workspace=tmp_path / "work")
        assert report.added == added
    assert report.shared == (1, 1)


def test_a_late_row_does_not_hide_one_that_can_be_stored(lake: Lake, tmp_path: Path) -> None:
    """The first row of an id comes too late: the next one is the trade, in any cut."""
    table_history.set_properties(lake.writable_trades(), {"k2.frozen-before": "2024-08-08T00:00:00+00:00"})
    report = put(lake, tmp_path, [(T - 60, 1, "1"), (T + 60, 2, "1"), (T + 61, 2, "1")])
    assert (report.added, report.conflicts, report.rejected) == (1, 1, 1)
    assert stored(lake) == [("1", T + 60, 2)]


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data files that look-ups and ranges open from now on."""
    paths: list[str] = []
    to_table, read = ArrowScan.to_table, id_ranges._read

    def scanned(self: ArrowScan, tasks: Any) -> pa.Table:
        paths.extend(task.file.file_path for task in tasks if "timestamp_day" in task.file.file_path)
        return to_table(self, tasks)

    def ranged(table: Any, live: Any) -> Any:
        paths.append(live.path)
        return read(table, live)

    monkeypatch.setattr(ArrowScan, "to_table", scanned)
    monkeypatch.setattr(id_ranges, "_read", ranged)
    return paths


def test_only_files_that_may_hold_an_id_are_opened(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids that grow open nothing, a known one opens its file, and ranges are kept across processes."""
    monkeypatch.setattr(id_ranges, "_MAX_UNSAVED_FILES", 1)
    for day in range(6):
        rows = [(T + day * DAY + n, 1, str(day * 100 + n)) for n in range(50)]
        put(lake, tmp_path, rows)
        put(lake, tmp_path, rows, symbol="other")
    put(lake, tmp_path, [(T, 1, "1")])
    monkeypatch.setattr(id_ranges, "_RANGE_CACHE", id_ranges._RangeCache())  # another process
    paths = opened(monkeypatch)
    assert put(lake, tmp_path, [(T + 6 * DAY, 1, "600"), (T, 1, "560")]).added == 2
    assert paths == []
    monkeypatch.setattr(id_ranges, "_MAX_UNSAVED_FILES", 99)
    assert put(lake, tmp_path, [(T + 7 * DAY, 1, "205")]).conflicts == 1
    assert len([path for path in paths if "2024-08-10" in path]) == 1
    assert len(set(paths)) == 3  # and the two that the append before it made


def test_what_is_kept_may_be_lost_or_torn(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs time only, and is written again; months without files leave none behind."""
    monkeypatch.setattr(id_ranges, "_MAX_UNSAVED_FILES", 1)
    rows = [(T + n * DAY, 1, str(n)) for n in range(40)]
    put(lake, tmp_path, rows)
    put(lake, tmp_path, rows)
    place = Path(id_ranges._range_folder(lake.trades()).removeprefix("file://"))
    kept = sorted(place.iterdir())
    assert [path.name for path in kept] == ["2024-08.arrow", "2024-09.arrow"]
    for content in (b"", kept[0].read_bytes()[:-9], b"x" * 4096, None):
        monkeypatch.setattr(id_ranges, "_RANGE_CACHE", id_ranges._RangeCache())
        if content is None:
            kept[0].unlink()
        else:
            kept[0].write_bytes(content)
        assert put(lake, tmp_path, [(t + 5, 1, i) for t, _, i in rows]).conflicts == 40
        assert len(kept[0].read_bytes()) > 200
    lake.trades().delete("timestamp >= '2024-09-01T00:00:00+00:00'")
    put(lake, tmp_path, [(T + 5, 5, "500")])
    put(lake, tmp_path, [(T + 5, 5, "500")])
    assert [path.name for path in place.iterdir()] == ["2024-08.arrow"]


@settings(max_examples=40)
@given(
    st.lists(st.text("019abZé", min_size=1, max_size=5), min_size=1, max_size=20),
    st.lists(st.text("019abZé", min_size=1, max_size=5), min_size=2, max_size=2),
)
def test_ids_between_two_are_found(ids: list[str], ends: list[str]) -> None:
    """By length in bytes and then by bytes, as the plain comparison of those says."""

    def key(one: str) -> tuple[int, bytes]:
        return len(one.encode()), one.encode()

    least, greatest = sorted(ends, key=key)
    found = candidate_files._SortedIds(pa.chunked_array([pa.array(ids)])).has_any_between(
        len(least.encode()), least, len(greatest.encode()), greatest
    )
    assert found == any(key(least) <= key(one) <= key(greatest) for one in ids)


def test_ids_of_a_day_are_looked_for_in_their_day(lake: Lake, tmp_path: Path) -> None:
    """Where a format says that its ids begin anew each day."""
    put(lake, tmp_path, [(T, 1, "1"), (T + DAY, 1, "2")])
    times = pa.array([T, T + DAY, T + DAY + 1], pa.int64())
    rows = pa.table(
        {
            "market": pa.array([0, 0, 0], pa.int32()),
            "trade_id": ["1", "1", "2"],
            "timestamp": pc.multiply(times, 10**6).cast(pa.timestamp("us", "UTC")),
            "price": pa.array([Decimal(1)] * 3, pa.decimal128(18, 8)),
            "quantity": pa.array([Decimal(1)] * 3, pa.decimal128(19, 8)),
        }
    )
    for daily, new in ((np.ones(3, bool), [False, True, False]), (None, [False, False, False])):
        incoming = dedupe.TradeBatch(rows, [("E", "S")], np.zeros(3, bool), np.arange(3), daily)
        assert dedupe.find_duplicates(lake.trades(), incoming).new.tolist() == new


def test_a_format_may_say_that_its_ids_are_of_a_day(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one file, in batches, and in a file that comes again; within a day an id is one trade."""
    real = reader.detect_format

    def daily(*arguments: Any) -> Any:
        layout, first = real(*arguments)
        return replace(layout, daily_ids=True), first

    monkeypatch.setattr(reader, "detect_format", daily)
    rows = [(T, 1, "1"), (T + 5, 1, "2"), (T + DAY, 1, "1"), (T + DAY + 5, 9, "1")]
    each: tuple[dict[str, Any], ...] = ({}, {"batch_rows": 1})
    for options in each:
        lakes.drop_tables(lake)
        report = put(lake, tmp_path, rows, **options)
        assert (report.added, report.conflicts) == (3, 1)
        report = put(lake, tmp_path, rows, **options)
        assert (report.added, report.duplicates, report.conflicts) == (0, 3, 1)


def test_a_row_that_another_engine_deleted_is_new_again(lake: Lake, tmp_path: Path) -> None:
    """Its file still has it, and the file's range of ids too."""
    put(lake, tmp_path, [(T, 1, "1"), (T + 1, 1, "2")])
    (file,) = [task.file for task in lake.trades().scan().plan_files()]
    external_tables.delete_positions(lake.trades(), [(file.file_path, 0)], partition=file.partition)
    assert stored(lake) == [("2", T + 1, 1)]
    report = put(lake, tmp_path, [(T, 1, "1"), (T + 1, 1, "2")])
    assert (report.added, report.duplicates) == (1, 1)
    assert delete_trades(lake, Selection(("E", "S")), apply=True).removed == 2
    assert stored(lake) == []


def test_equality_deletes_are_refused_by_name(lake: Lake, tmp_path: Path) -> None:
    put(lake, tmp_path, [(T, 1, "1")])
    (file,) = [task.file for task in lake.trades().scan().plan_files()]
    external_tables.delete_equal(lake.trades(), ["trade_id"], [("1",)], partition=file.partition)
    before = lake.trades().metadata.current_snapshot_id
    path = tmp_path / "revised.csv"
    path.write_text(f"{HEADER}{T},2,1,1\n")
    for work in (
        lambda: put(lake, tmp_path, [(T, 1, "2")]),
        lambda: delete_trades(lake, Selection(("E", "S")), apply=True),
        lambda: replace_trades(lake, path, exchange="E", symbol="S", workspace=tmp_path, apply=True),
    ):
        with pytest.raises(TableSpecError, match=r"1 equality delete files.*rewrite_data_files"):
            work()
    assert lake.trades().metadata.current_snapshot_id == before

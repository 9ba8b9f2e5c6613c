"""Id ranges of data files: which files a search for duplicates opens, and how ranges are stored."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.io.pyarrow import ArrowScan

from k2_ohlcv.lake import candidate_files
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.metadata import id_ranges
from k2_ohlcv_tests.support.ingested import DAY_SECONDS, MIDNIGHT, ingest_rows


def record_opened_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The data files that searches and ranges open from now on."""
    paths: list[str] = []
    to_table, read = ArrowScan.to_table, id_ranges._read

    def record_scan(self: ArrowScan, tasks: Any) -> pa.Table:
        paths.extend(task.file.file_path for task in tasks if "timestamp_day" in task.file.file_path)
        return to_table(self, tasks)

    def record_range(table: Any, live: Any) -> Any:
        paths.append(live.path)
        return read(table, live)

    monkeypatch.setattr(ArrowScan, "to_table", record_scan)
    monkeypatch.setattr(id_ranges, "_read", record_range)
    return paths


def test_only_candidate_files_are_opened(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing ids open no file, and a known id opens its file. Ranges are stored across processes."""
    monkeypatch.setattr(id_ranges, "_MAX_UNSAVED_FILES", 1)
    for day in range(6):
        rows = [(MIDNIGHT + day * DAY_SECONDS + n, 1, str(day * 100 + n)) for n in range(50)]
        ingest_rows(lake, tmp_path, rows)
        ingest_rows(lake, tmp_path, rows, symbol="other")
    ingest_rows(lake, tmp_path, [(MIDNIGHT, 1, "1")])
    monkeypatch.setattr(id_ranges, "_RANGE_CACHE", id_ranges._RangeCache())  # another process
    paths = record_opened_files(monkeypatch)
    assert (
        ingest_rows(lake, tmp_path, [(MIDNIGHT + 6 * DAY_SECONDS, 1, "600"), (MIDNIGHT, 1, "560")]).added == 2
    )
    assert paths == []
    monkeypatch.setattr(id_ranges, "_MAX_UNSAVED_FILES", 99)
    assert ingest_rows(lake, tmp_path, [(MIDNIGHT + 7 * DAY_SECONDS, 1, "205")]).conflicts == 1
    assert len([path for path in paths if "2024-08-10" in path]) == 1
    assert len(set(paths)) == 3  # and the two files of the append before


def test_ranges_may_be_lost_or_damaged(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost ranges cost time only and are written again. Months without files have no range file."""
    monkeypatch.setattr(id_ranges, "_MAX_UNSAVED_FILES", 1)
    rows = [(MIDNIGHT + n * DAY_SECONDS, 1, str(n)) for n in range(40)]
    ingest_rows(lake, tmp_path, rows)
    ingest_rows(lake, tmp_path, rows)
    folder = Path(id_ranges._range_folder(lake.trades()).removeprefix("file://"))
    range_files = sorted(folder.iterdir())
    assert [path.name for path in range_files] == ["2024-08.arrow", "2024-09.arrow"]
    for content in (b"", range_files[0].read_bytes()[:-9], b"x" * 4096, None):
        monkeypatch.setattr(id_ranges, "_RANGE_CACHE", id_ranges._RangeCache())
        if content is None:
            range_files[0].unlink()
        else:
            range_files[0].write_bytes(content)
        assert ingest_rows(lake, tmp_path, [(t + 5, 1, i) for t, _, i in rows]).conflicts == 40
        assert len(range_files[0].read_bytes()) > 200
    lake.trades().delete("timestamp >= '2024-09-01T00:00:00+00:00'")
    ingest_rows(lake, tmp_path, [(MIDNIGHT + 5, 5, "500")])
    ingest_rows(lake, tmp_path, [(MIDNIGHT + 5, 5, "500")])
    assert [path.name for path in folder.iterdir()] == ["2024-08.arrow"]


@settings(max_examples=40)
@given(
    st.lists(st.text("019abZé", min_size=1, max_size=5), min_size=1, max_size=20),
    st.lists(st.text("019abZé", min_size=1, max_size=5), min_size=2, max_size=2),
)
def test_ids_between_two_are_found(ids: list[str], ends: list[str]) -> None:
    """Ids are ordered by length in bytes, then by bytes."""

    def key(trade_id: str) -> tuple[int, bytes]:
        return len(trade_id.encode()), trade_id.encode()

    least, greatest = sorted(ends, key=key)
    is_between = candidate_files._SortedIds(pa.chunked_array([pa.array(ids)])).has_any_between(
        len(least.encode()), least, len(greatest.encode()), greatest
    )
    assert is_between == any(key(least) <= key(trade_id) <= key(greatest) for trade_id in ids)

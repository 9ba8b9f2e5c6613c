"""The external merge sort of trades, and its temporary folder."""

import fcntl
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2_ohlcv.sources.staging.sort_buffer import RUN_SCHEMA, SortBuffer, to_micros_array
from k2_ohlcv.sources.staging.temp_folder import open_temp_folder

HOUR = 3_600_000_000
T = 1723075200_000000


def rows(times: list[int], first_line: int = 1) -> pa.Table:
    size = len(times)
    return pa.table(
        {
            "market": np.zeros(size, np.int32),
            "file": np.zeros(size, np.int32),
            "trade_id": pa.nulls(size, pa.string()),
            "timestamp": pa.array(times, pa.int64()).cast(pa.timestamp("us", "UTC")),
            "price": pa.nulls(size, RUN_SCHEMA.field("price").type),
            "quantity": pa.nulls(size, RUN_SCHEMA.field("quantity").type),
            "line": np.arange(first_line, first_line + size),
        },
        schema=RUN_SCHEMA,
    )


moments = st.lists(st.sampled_from([T, T + 1]) | st.integers(T, T + 60 * HOUR), min_size=1, max_size=60)


@settings(derandomize=True, max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(moments, min_size=1, max_size=5), st.integers(1, 40), st.integers(1, 30))
def test_every_row_is_read_once_and_sorted(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], run_rows: int, most: int
) -> None:
    """Time ranges are disjoint and have a maximum of rows. Rows of one time are in the order of lines."""
    buffer = SortBuffer(tmp_path_factory.mktemp("buffer"), run_rows)
    line = 1
    for batch in batches:
        buffer.add(rows(batch, line))
        line += len(batch)
    expected = [(t, i) for i, t in enumerate((t for batch in batches for t in batch), start=1)]
    out, last = [], 0
    for span in buffer.split_ranges(most):
        assert last <= span.start < span.end
        last = span.end
        part = buffer.read(span.start, span.end)
        assert part.num_rows == span.rows > 0
        assert span.rows <= most or len(set(to_micros_array(part).tolist())) == 1
        out += list(zip(to_micros_array(part).tolist(), part["line"].to_pylist(), strict=True))
    assert out == sorted(expected)


def test_ranges_are_whole_days_where_these_fit(tmp_path: Path) -> None:
    """A day with too many rows is split by hours, and is not merged with other days."""
    buffer = SortBuffer(tmp_path)
    day = 24 * HOUR
    buffer.add(rows([T, T + 1, T + day, T + day + HOUR, T + day + 2 * HOUR, T + 2 * day, T + 3 * day]))
    spans = [((s.start - T) / HOUR, (s.end - T) / HOUR, s.rows) for s in buffer.split_ranges(2)]
    assert spans == [(0, 24, 2), (24, 26, 2), (26, 27, 1), (48, 96, 2)]


def test_only_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """The system releases the lock of a dead process."""
    for name in ("ingest-dead", "ingest-living"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run").write_text("x")
        (tmp_path / f"{name}.lock").touch()
    (tmp_path / "unrelated").mkdir()
    with (tmp_path / "ingest-living.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open_temp_folder(tmp_path) as first, open_temp_folder(tmp_path) as second:
            assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {
                "ingest-living",
                "unrelated",
                first.name,
                second.name,
            }
    assert {p.name for p in tmp_path.iterdir()} == {
        ".lock",
        "ingest-living",
        "ingest-living.lock",
        "unrelated",
    }

"""Random deliveries of trades give one table for any order, repetition and batch size."""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.intervals import Interval, from_micros
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.ingested import MIDNIGHT, read_columns

SEEDED = settings(derandomize=True, max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
T = MIDNIGHT * 10**6
COLUMNS = ("symbol", "trade_id", "timestamp", "price", "quantity")
HEADER = "timestamp,price,quantity,trade_id,symbol\n"

# Moments in three days. Many are shared, and some are midnights.
moments = st.one_of(
    st.sampled_from([T, T + 1, T + 86_400_000_000, T + 86_399_999_999]), st.integers(T, T + 2 * 10**11)
)
cells = st.tuples(moments, st.integers(1, 10**18 - 1), st.integers(1, 10**19 - 1))


def to_csv(rows: list[tuple[Any, ...]]) -> str:
    return HEADER + "".join(f"{t},{p // 10**8}.{p % 10**8:08},{q}e-8,{i},{s}\n" for t, p, q, i, s in rows)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[tuple[Any, ...]], list[list[tuple[Any, ...]]], list[int]]:
    """Rows, files that together contain every row, and a batch size for each file."""
    values = draw(st.lists(cells, min_size=1, max_size=40))
    rows = [(*cell, i * 7, "AB"[i % 3 // 2]) for i, cell in enumerate(values)]
    files = draw(st.lists(st.lists(st.sampled_from(rows), min_size=1, max_size=50), max_size=3))
    files.append(draw(st.permutations(rows)))  # the last file has every row
    return rows, files, draw(st.lists(st.integers(1, 60), min_size=len(files), max_size=len(files)))


@SEEDED
@given(deliveries(), st.booleans())
def test_any_delivery_gives_the_same_table(delivery: Any, is_one_call: bool) -> None:
    """Files may be shuffled, repeated and overlapping, in one call or several."""
    rows, files, sizes = delivery
    with lakes.temporary_lake() as (lake, folder):
        paths = [folder / f"{i}.csv" for i in range(len(files))]
        for path, file in zip(paths, files, strict=True):
            path.write_text(to_csv(file))
        options: dict[str, Any] = {"exchange": "E", "workspace": folder / "work"}
        if is_one_call:
            reports = [ingest(lake, paths, batch_rows=sizes[0], **options)]
        else:
            reports = [
                ingest(lake, [p], batch_rows=size, **options) for p, size in zip(paths, sizes, strict=True)
            ]
        assert sum(r.added for r in reports) == len(rows)
        assert sum(r.added + r.duplicates for r in reports) == sum(map(len, files))
        expected = [(s, str(i), from_micros(t), p, q) for t, p, q, i, s in rows]
        stored = [
            (s, i, t, int(p.scaleb(8)), int(q.scaleb(8))) for s, i, t, p, q in read_columns(lake, *COLUMNS)
        ]
        assert stored == sorted(expected)


@SEEDED
@given(
    st.lists(st.tuples(st.sampled_from([T, T + 1, T + 10**10]), st.integers(1, 3)), max_size=30).filter(bool)
)
def test_the_same_file_without_ids_gives_the_same_ids(cells_of_file: list[tuple[int, int]]) -> None:
    """The batch size does not matter, and equal rows are all stored."""
    text = "timestamp,price,amount\n" + "".join(f"{t},{p},1\n" for t, p in cells_of_file)
    tables = []
    for batch_rows in (1, 1000):
        with lakes.temporary_lake() as (lake, folder):
            path = folder / "t.csv"
            path.write_text(text)
            for added in (len(cells_of_file), 0):
                report = ingest(
                    lake, [path], exchange="E", symbol="S", workspace=folder / "w", batch_rows=batch_rows
                )
                assert (report.added, report.duplicates) == (added, len(cells_of_file) - added)
            tables.append(read_columns(lake, *COLUMNS))
    assert tables[0] == tables[1]
    times: Counter[int] = Counter()
    expected = []
    for t, p in cells_of_file:
        expected.append((f"{t}-{times[t]}", p))
        times[t] += 1
    assert [(i, int(p)) for _, i, _, p, _ in tables[0]] == sorted(expected)


bad_lines = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            ",",
            "a,b,c,d,e",
            '"',
            '1,2,"3',
            f"{T},0,1,x,A",
            f"{T},1,-1,x,A",
            f"{T},1e-9,1,x,A",
            "1,1,1,x,A",
        ]
    ),
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=12),
)


@SEEDED
@given(st.lists(st.one_of(bad_lines, st.integers(1, 99)), min_size=1, max_size=30))
def test_a_bad_row_costs_only_itself(lines: list[str | int]) -> None:
    """Every good row is stored, and every bad row is rejected with its line and text."""
    texts = [x if isinstance(x, str) else f"{T + x},{x},1,{i},A" for i, x in enumerate(lines)]
    good = sum(isinstance(x, int) for x in lines)
    with lakes.temporary_lake() as (lake, folder):
        path = folder / "t.csv"
        path.write_text(HEADER + f"{T},1,1,first,A\n" + "\n".join(texts) + "\n", encoding="utf-8", newline="")
        report = ingest(lake, [path], exchange="E", workspace=folder / "w")
        assert report.added == good + 1
        blank = sum(isinstance(x, str) and not x.strip() for x in lines)
        assert report.rejected == len(lines) - good - blank
        rejected = {row["line"]: row["raw"] for row in lake.rejected().scan().to_arrow().to_pylist()}
        assert rejected == {
            i: text for i, text in enumerate(texts, start=3) if isinstance(lines[i - 3], str) and text.strip()
        }


@SEEDED
@given(st.lists(cells, min_size=1, max_size=30), st.integers(T, T + 2 * 10**11), st.integers(1, 10**11))
def test_chosen_days_are_exactly_those_rows(values: list[Any], start: int, length: int) -> None:
    """The interval is half-open and exact to the microsecond."""
    rows = [(*cell, i, "A") for i, cell in enumerate(values)]
    inside = [row for row in rows if start <= row[0] < start + length]
    with lakes.temporary_lake() as (lake, folder):
        path = folder / "t.csv"
        path.write_text(to_csv(rows))
        days = [Interval(from_micros(start), from_micros(start + length))]
        report = ingest(lake, [path], exchange="E", workspace=folder / "w", days=days)
        assert report.read == report.added == len(inside)
        assert len(read_columns(lake, *COLUMNS)) == len(inside)

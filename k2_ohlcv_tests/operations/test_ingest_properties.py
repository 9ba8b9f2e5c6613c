"""Any order, doubling or batching of trades with ids gives one table; a bad row costs only itself."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.intervals import Interval, from_micros
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.settings import Settings

SEEDED = settings(derandomize=True, max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
T = 1723075200_000000  # 2024-08-08 00:00 UTC
HEADER = "timestamp,price,quantity,trade_id,symbol\n"

# Moments in three days, many of them shared, some at midnight.
moments = st.one_of(
    st.sampled_from([T, T + 1, T + 86_400_000_000, T + 86_399_999_999]), st.integers(T, T + 2 * 10**11)
)
cells = st.tuples(moments, st.integers(1, 10**18 - 1), st.integers(1, 10**19 - 1))


@contextmanager
def lake_in(folder: str) -> Iterator[Lake]:
    lake = Lake.open(Settings.from_environ({"K2_HOME": f"{folder}/home"}))
    try:
        yield lake
    finally:
        lake.catalog.close()


def text_of(rows: list[tuple[Any, ...]]) -> str:
    return HEADER + "".join(f"{t},{p // 10**8}.{p % 10**8:08},{q}e-8,{i},{s}\n" for t, p, q, i, s in rows)


def table(lake: Lake) -> list[tuple[Any, ...]]:
    columns = ("symbol", "trade_id", "timestamp", "price", "quantity")
    return sorted(tuple(r[c] for c in columns) for r in lake.trades().scan().to_arrow().to_pylist())


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[tuple[Any, ...]], list[list[tuple[Any, ...]]], list[int]]:
    values = draw(st.lists(cells, min_size=1, max_size=40))
    rows = [(*cell, i * 7, "AB"[i % 3 // 2]) for i, cell in enumerate(values)]
    files = draw(st.lists(st.lists(st.sampled_from(rows), min_size=1, max_size=50), max_size=3))
    files.append(draw(st.permutations(rows)))  # the last one has them all
    return rows, files, draw(st.lists(st.integers(1, 60), min_size=len(files), max_size=len(files)))


@SEEDED
@given(deliveries(), st.booleans())
def test_any_delivery_gives_the_same_table(delivery: Any, at_once: bool) -> None:
    """Shuffled, doubled, overlapping, in one call or in many, in batches of any size."""
    rows, files, sizes = delivery
    with tempfile.TemporaryDirectory() as folder, lake_in(folder) as lake:
        paths = [Path(folder, f"{i}.csv") for i in range(len(files))]
        for path, file in zip(paths, files, strict=True):
            path.write_text(text_of(file))
        options: dict[str, Any] = {"exchange": "E", "workspace": Path(folder, "work")}
        if at_once:
            reports = [ingest(lake, paths, batch_rows=sizes[0], **options)]
        else:
            reports = [
                ingest(lake, [p], batch_rows=size, **options) for p, size in zip(paths, sizes, strict=True)
            ]
        assert sum(r.added for r in reports) == len(rows)
        assert sum(r.added + r.duplicates for r in reports) == sum(map(len, files))
        want = [(s, str(i), from_micros(t), p, q) for t, p, q, i, s in rows]
        have = [(s, i, t, int(p.scaleb(8)), int(q.scaleb(8))) for s, i, t, p, q in table(lake)]
        assert have == sorted(want)


@SEEDED
@given(
    st.lists(st.tuples(st.sampled_from([T, T + 1, T + 10**10]), st.integers(1, 3)), max_size=30).filter(bool)
)
def test_the_same_file_without_ids_gives_the_same_ids(cut: list[tuple[int, int]]) -> None:
    """Whatever the batches, and no row is lost to an equal one."""
    text = "timestamp,price,amount\n" + "".join(f"{t},{p},1\n" for t, p in cut)
    tables = []
    for batch_rows in (1, 1000):
        with tempfile.TemporaryDirectory() as folder, lake_in(folder) as lake:
            path = Path(folder, "t.csv")
            path.write_text(text)
            for added in (len(cut), 0):
                report = ingest(
                    lake, [path], exchange="E", symbol="S", workspace=Path(folder, "w"), batch_rows=batch_rows
                )
                assert (report.added, report.duplicates) == (added, len(cut) - added)
            tables.append(table(lake))
    assert tables[0] == tables[1]
    times: Counter[int] = Counter()
    want = []
    for t, p in cut:
        want.append((f"{t}-{times[t]}", p))
        times[t] += 1
    assert [(i, int(p)) for _, i, _, p, _ in tables[0]] == sorted(want)


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
    """Every good row is stored, every bad one kept with its line and its text."""
    texts = [x if isinstance(x, str) else f"{T + x},{x},1,{i},A" for i, x in enumerate(lines)]
    good = sum(isinstance(x, int) for x in lines)
    with tempfile.TemporaryDirectory() as folder, lake_in(folder) as lake:
        path = Path(folder, "t.csv")
        path.write_text(HEADER + f"{T},1,1,first,A\n" + "\n".join(texts) + "\n", encoding="utf-8", newline="")
        report = ingest(lake, [path], exchange="E", workspace=Path(folder, "w"))
        assert report.added == good + 1
        blank = sum(isinstance(x, str) and not x.strip() for x in lines)
        assert report.rejected == len(lines) - good - blank
        kept = {row["line"]: row["raw"] for row in lake.rejected().scan().to_arrow().to_pylist()}
        assert kept == {
            i: text for i, text in enumerate(texts, start=3) if isinstance(lines[i - 3], str) and text.strip()
        }


@SEEDED
@given(st.lists(cells, min_size=1, max_size=30), st.integers(T, T + 2 * 10**11), st.integers(1, 10**11))
def test_chosen_days_are_exactly_those_rows(values: list[Any], start: int, length: int) -> None:
    """Half-open, to the microsecond."""
    rows = [(*cell, i, "A") for i, cell in enumerate(values)]
    inside = [row for row in rows if start <= row[0] < start + length]
    with tempfile.TemporaryDirectory() as folder, lake_in(folder) as lake:
        path = Path(folder, "t.csv")
        path.write_text(text_of(rows))
        days = [Interval(from_micros(start), from_micros(start + length))]
        report = ingest(lake, [path], exchange="E", workspace=Path(folder, "w"), days=days)
        assert report.read == report.added == len(inside)
        assert len(table(lake)) == len(inside)

"""Replacement of a market's trades by a file, over the span of the file."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.delete_trades import Selection, delete_trades
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.corrections import (
    MARKET,
    NOON,
    TWO_MARKETS,
    WriteCsv,
    assert_unchanged,
    count_snapshots,
    read_ingested_at,
    rejected_ids,
    run_replace,
    sort_trades,
    stored_trades,
    to_csv,
    trade,
)


def test_a_file_replaces_its_market_and_span(two_markets: Lake, write_csv: WriteCsv, tmp_path: Path) -> None:
    """Equal trades keep `ingested_at`, and a second run commits nothing."""
    before = read_ingested_at(two_markets)
    revised = [trade(n) for n in range(5, 31) if n % 7]
    revised[3] = replace(revised[3], price=Decimal("77.5"))
    revised.append(trade(1000, timestamp=NOON + timedelta(hours=6, microseconds=1)))
    expected = [t for t in TWO_MARKETS if t.symbol == "T" or not 5 <= int(t.trade_id) <= 30] + revised
    path = write_csv(revised)
    dry_run = run_replace(two_markets, path, tmp_path, apply=False)
    assert stored_trades(two_markets) == sort_trades(TWO_MARKETS)
    applied = run_replace(two_markets, path, tmp_path)
    assert stored_trades(two_markets) == sort_trades(expected)
    assert (
        (applied.removed, applied.added, applied.unchanged)
        == (dry_run.removed, dry_run.added, dry_run.unchanged)
        == (5, 2, 21)
    )
    assert count_snapshots(two_markets) == 2
    assert rejected_ids(two_markets) == sorted(
        ("S", str(n)) for n in (7, 14, 21, 28, int(revised[3].trade_id))
    )
    changed = {key for key, time in read_ingested_at(two_markets).items() if before.get(key) != time}
    assert changed == {("S", "1000"), ("S", revised[3].trade_id)}
    again = run_replace(two_markets, path, tmp_path)
    assert (again.removed, again.added, again.snapshot, count_snapshots(two_markets)) == (0, 0, None, 2)


@settings(max_examples=10)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 3)), min_size=1, max_size=25, unique_by=lambda x: x[0]
    ),
    st.integers(1, 9),
)
def test_any_file_gives_its_own_trades_over_its_span(values: list[tuple[int, int]], batch_rows: int) -> None:
    """Within the file's span exactly the file's trades are stored, for any batch size."""
    with lakes.temporary_lake() as (lake, folder):
        path = folder / "t.csv"
        path.write_text(to_csv(TWO_MARKETS))
        ingest(lake, [path], workspace=folder / "work")
        revised = [trade(n, price=Decimal(n + p)) for n, p in values]
        first, last = min(t.timestamp for t in revised), max(t.timestamp for t in revised)
        path.write_text(to_csv(revised))
        run_replace(lake, path, folder, batch_rows=batch_rows)
        outside = [t for t in TWO_MARKETS if t.symbol == "T" or not first <= t.timestamp <= last]
        assert stored_trades(lake) == sort_trades(outside + revised)


def test_a_file_is_replaced_into_an_empty_lake(lake: Lake, write_csv: WriteCsv, tmp_path: Path) -> None:
    """An empty lake has no trade to remove."""
    assert delete_trades(lake, Selection(MARKET), apply=True).removed == 0
    path = write_csv([trade(1), trade(2)])
    assert run_replace(lake, path, tmp_path, apply=False).added == 2
    assert lake.trades().current_snapshot() is None
    assert run_replace(lake, path, tmp_path).added == 2
    assert stored_trades(lake) == [trade(1), trade(2)]
    assert rejected_ids(lake) == []


def test_trades_without_ids_are_replaced_too(lake: Lake, tmp_path: Path) -> None:
    """Generated ids count the equal rows of one time, so a removed row removes one trade."""
    path = tmp_path / "t.csv"
    options = {"exchange": "E", "symbol": "S", "workspace": tmp_path / "work"}
    path.write_text(
        "timestamp,price,amount\n1723075200,1,1\n1723075200,1,1\n1723075201,2,1\n1723075202,3,1\n"
    )
    ingest(lake, [path], **options)  # type: ignore[arg-type]
    assert run_replace(lake, path, tmp_path, **options).snapshot is None
    path.write_text("timestamp,price,amount\n1723075200,1,1\n1723075201,2.5,1\n1723075202,3,1\n")
    applied = run_replace(lake, path, tmp_path, **options)
    assert (applied.removed, applied.added, applied.unchanged) == (2, 1, 2)
    assert [t.price for t in stored_trades(lake)] == [1, Decimal("2.5"), 3]


def test_ambiguous_files_are_refused(two_markets: Lake, write_csv: WriteCsv, tmp_path: Path) -> None:
    """Several markets, rejected rows, repeated ids and ids stored elsewhere change nothing."""
    with pytest.raises(UsageError, match=r"2 markets \(E/S, E/T\)"):
        run_replace(two_markets, write_csv(TWO_MARKETS[:4]), tmp_path)
    with pytest.raises(BadFileError, match=r"1 rows cannot be trades.*--skip-rejected"):
        run_replace(two_markets, write_csv([trade(1), trade(3)], f"{NOON.isoformat()},0,1,x,E,S\n"), tmp_path)
    with pytest.raises(BadFileError, match="1 rows cannot be trades"):
        run_replace(two_markets, write_csv([trade(1), trade(3), trade(3, price=Decimal(9))]), tmp_path)
    with pytest.raises(BadFileError, match="1 ids occur again"):
        run_replace(
            two_markets, write_csv([trade(1), trade(2), trade(1, timestamp=NOON)]), tmp_path, batch_rows=1
        )
    with pytest.raises(UsageError, match=r"outside of its span, 1 .*\(3\)"):
        run_replace(two_markets, write_csv([trade(3, timestamp=NOON)]), tmp_path)
    with pytest.raises(BadFileError, match="no row of the file is a trade"):
        run_replace(two_markets, write_csv([], "x,1,1,1,E,S\n"), tmp_path)
    assert_unchanged(two_markets)
    path = write_csv([trade(1), trade(3)], f"{NOON.isoformat()},0,1,x,E,S\n")
    report = run_replace(two_markets, path, tmp_path, skip_rejected=True)
    assert (report.removed, report.added, report.rejected) == (1, 0, 1)
    # The rejected row is stored as its text.
    assert rejected_ids(two_markets) == [("S", "2"), ("S", "S")]

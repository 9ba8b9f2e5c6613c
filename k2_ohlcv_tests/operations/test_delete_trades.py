"""Deletion of trades: what is selected, recorded and refused, and how candles follow."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import BadFileError, MissingTradesError, UsageError
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake import replace_rows as lake_corrections
from k2_ohlcv.lake import retry
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.schemas import NAMESPACE, TRADES_SPEC
from k2_ohlcv.operations.delete_trades import Selection, delete_trades
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.corrections import (
    MARKET,
    NOON,
    TWO_MARKETS,
    WriteCsv,
    assert_unchanged,
    count_snapshots,
    rejected_ids,
    run_replace,
    sort_trades,
    stored_trades,
    trade,
)
from k2_ohlcv_tests.support.engine_lake import EngineLake

MINUTE, DAILY = find_timeframe("1m"), find_timeframe("1d")


@pytest.mark.parametrize(
    ("selection", "is_selected"),
    [
        (Selection(MARKET), lambda t: t.symbol == "S"),
        (Selection(MARKET, ids=("3", "30", "99")), lambda t: t.symbol == "S" and t.trade_id in {"3", "30"}),
        (Selection(interval=Interval(NOON, NOON + timedelta(hours=2))), lambda t: int(t.trade_id) < 2),
        (
            Selection(
                MARKET, Interval(NOON + timedelta(hours=9), NOON + timedelta(hours=20)), ("9", "19", "20")
            ),
            lambda t: t.symbol == "S" and t.trade_id in {"9", "19"},
        ),
        (Selection(("E", "none")), lambda t: False),
    ],
)
def test_selected_trades_are_deleted_and_recorded(
    two_markets: Lake, selection: Selection, is_selected: Callable[[Trade], bool]
) -> None:
    """One commit deletes them. The dry run counts the same trades and changes nothing."""
    remaining = [t for t in TWO_MARKETS if not is_selected(t)]
    dry_run = delete_trades(two_markets, selection, apply=False)
    assert_unchanged(two_markets)
    applied = delete_trades(two_markets, selection, reason="bad tick", apply=True)
    assert stored_trades(two_markets) == sort_trades(remaining)
    assert (dry_run.removed, dry_run.removed_per_day) == (applied.removed, applied.removed_per_day)
    assert applied.removed == len(TWO_MARKETS) - len(remaining)
    assert count_snapshots(two_markets) == 1 + bool(applied.removed)
    assert rejected_ids(two_markets) == sorted((t.symbol, t.trade_id) for t in TWO_MARKETS if is_selected(t))
    assert {r["reason"] for r in two_markets.rejected().scan().to_arrow().to_pylist()} <= {"bad tick"}
    assert delete_trades(two_markets, selection, apply=True).removed == 0
    assert count_snapshots(two_markets) == 1 + bool(applied.removed)


def test_a_selection_names_a_market_or_a_span() -> None:
    """An empty selection is refused, and so are ids without a market."""
    with pytest.raises(UsageError, match="--exchange and --symbol"):
        Selection()
    with pytest.raises(UsageError, match="unique in its market"):
        Selection(ids=("1",))


def test_frozen_and_external_trades_are_kept(two_markets: Lake, write_csv: WriteCsv, tmp_path: Path) -> None:
    """Deletion and replacement refuse trades before `frozen_before`, and external trades tables."""
    table_history.freeze_trades(two_markets.trades(), NOON + timedelta(hours=12))
    with pytest.raises(UsageError, match=r"k2\.frozen-before"):
        delete_trades(two_markets, Selection(MARKET, ids=("3",)), apply=True)
    with pytest.raises(UsageError, match=r"k2\.frozen-before"):
        run_replace(two_markets, write_csv([trade(3), trade(30)]), tmp_path)
    assert delete_trades(two_markets, Selection(MARKET, ids=("30",)), apply=True).removed == 1
    external = Lake(two_markets.catalog, ExternalTradesConfig(("market_data", "gold_crypto_trades")))
    with pytest.raises(UsageError, match="never written to"):
        delete_trades(external, Selection(MARKET), apply=False)
    with pytest.raises(UsageError, match="never written to"):
        run_replace(external, write_csv([trade(30)]), tmp_path)
    assert rejected_ids(two_markets) == [("S", "30")]


def test_a_lost_race_and_a_crash_lose_no_record(
    two_markets: Lake, write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt sees the other writer's trades. Each deleted trade is recorded once."""
    monkeypatch.setattr(retry, "_MIN_PAUSE", 0.0)
    commit, calls = lake_corrections.commit_change, []

    def commit_after_another_writer(table: Table, change: Any) -> Table:
        calls.append(rejected_ids(two_markets))
        if len(calls) == 1:
            ingest(two_markets, [write_csv([trade(50), trade(51)])], workspace=tmp_path / "work")
        return commit(table, change)

    monkeypatch.setattr(lake_corrections, "commit_change", commit_after_another_writer)
    selection = Selection(MARKET, Interval(NOON + timedelta(hours=38), NOON + timedelta(hours=51)))
    assert delete_trades(two_markets, selection, apply=True).removed == 3
    assert calls == [[("S", "38"), ("S", "39")], [("S", "38"), ("S", "39"), ("S", "50")]]
    assert [t.trade_id for t in stored_trades(two_markets) if t.symbol == "S"][-2:] == ["37", "51"]

    def fail(*_: object) -> Table:
        raise CommitFailedException("killed")

    monkeypatch.setattr(lake_corrections, "commit_change", fail)
    monkeypatch.setattr(retry, "CONFLICT_ERRORS", ())
    with pytest.raises(CommitFailedException):
        delete_trades(two_markets, Selection(MARKET, ids=("1",)), apply=True)
    assert ("S", "1") in rejected_ids(two_markets)
    monkeypatch.setattr(lake_corrections, "commit_change", commit)
    before = rejected_ids(two_markets)
    assert delete_trades(two_markets, Selection(MARKET, ids=("1",)), apply=True).removed == 1
    assert rejected_ids(two_markets) == before


def test_candles_follow_corrections(sail: EngineLake, tmp_path: Path, write_csv: WriteCsv) -> None:
    """A refresh after a deletion and a replacement gives the candles of the stored trades."""
    ingest(sail.lake, [write_csv(TWO_MARKETS)], workspace=tmp_path / "work")
    sail.refresh_tables(MINUTE, DAILY)
    delete_trades(sail.lake, Selection(MARKET, ids=("2", "39")), apply=True)
    run_replace(sail.lake, write_csv([trade(n, "T", price=Decimal(5)) for n in range(10, 20)]), tmp_path)
    sail.refresh_tables(MINUTE, DAILY)
    sail.assert_equal_to_trades(stored_trades(sail.lake), MINUTE, DAILY)
    assert len(stored_trades(sail.lake)) == len(TWO_MARKETS) - 2


def test_missing_trades_are_never_created(sail: EngineLake, tmp_path: Path, write_csv: WriteCsv) -> None:
    """While the trades table is renamed, corrections are refused. Ingestion of bad files creates no table."""
    lakes.add_trades(sail.lake, TWO_MARKETS)
    sail.refresh(MINUTE)
    away = (NAMESPACE, "away")
    sail.lake.catalog.rename_table(TRADES_SPEC.identifier, away)
    selection = Selection(market=("E", "S"))
    for apply in (False, True):
        with pytest.raises(MissingTradesError):
            delete_trades(sail.lake, selection, apply=apply)
        with pytest.raises(MissingTradesError):
            run_replace(sail.lake, write_csv(TWO_MARKETS[:1]), tmp_path, apply=apply)
    with pytest.raises(BadFileError):
        ingest(sail.lake, [tmp_path / "nowhere.csv"], workspace=tmp_path / "work")
    assert ingest(sail.lake, [write_csv([], "x\n")], workspace=tmp_path / "work").rejected == 1
    sail.lake.catalog.rename_table(away, TRADES_SPEC.identifier)
    sail.refresh(MINUTE)
    sail.assert_equal_to_trades(TWO_MARKETS, MINUTE)

"""After a restore of the catalog, candles are equal to the trades, and checks pass."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import DAILY, MINUTE
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.lost_catalog import lose_catalog, newest, restore
from k2_ohlcv_tests.support.trades import AT, week_of_trades

SPAN = Interval(AT, AT + timedelta(days=3))
#: Checks that fail although the candles are right: the trades are old, with hours without trades.
EXPECTED_FAILURES = {"freshness", "gaps"}


def locations(bench: EngineLake) -> list[str]:
    """The folders of the tables. The home has folders of earlier tests too."""
    tables = [bench.lake.trades(), bench.lake.candles(MINUTE), bench.lake.candles(DAILY)]
    return [table.location() for table in tables]


def restored(bench: EngineLake, folders: list[str]) -> EngineLake:
    """The lake after its catalog was lost and restored."""
    lose_catalog(bench.lake, bench.home)
    bench = replace(bench, lake=lakes.open_lake(bench.home))
    restore(bench.lake, locations=folders)
    return bench


def failed_checks(bench: EngineLake) -> set[str]:
    findings = [f for each in (MINUTE, DAILY) for f in bench.validate(each, [SPAN])]
    return {finding.check for finding in findings if finding.failures} - EXPECTED_FAILURES


def test_nothing_is_dirty_after_a_restore(three_days: EngineLake) -> None:
    """Watermarks are restored with the tables. New trades are then found as before."""
    bench = restored(three_days, locations(three_days))
    assert all(preview_refresh(bench.lake, each).is_current for each in (MINUTE, DAILY))
    bench.assert_equal_to_trades(week_of_trades(), MINUTE, DAILY)
    assert not failed_checks(bench)
    late = replace(week_of_trades()[0], trade_id="late", timestamp=AT + timedelta(minutes=7))
    lakes.add_trades(bench.lake, [late])
    assert bench.refresh(MINUTE).counts.added == 1
    bench.assert_equal_to_trades([*week_of_trades(), late], MINUTE)


def test_candles_of_a_commit_that_is_lost_are_removed(three_days: EngineLake) -> None:
    """The newest trades metadata is torn. The candle tables have read a commit that the table lacks now.

    A refresh then makes them equal to the trades that are left.
    """
    late = replace(week_of_trades()[0], trade_id="late", timestamp=AT + timedelta(minutes=7))
    lakes.add_trades(three_days.lake, [late])
    three_days.refresh_tables(MINUTE, DAILY)
    folders = locations(three_days)
    Path(newest(three_days.lake.trades()).removeprefix("file://")).write_text("{")
    bench = restored(three_days, folders)
    bench.refresh_tables(MINUTE, DAILY)
    bench.assert_equal_to_trades(week_of_trades(), MINUTE, DAILY)
    assert not failed_checks(bench)

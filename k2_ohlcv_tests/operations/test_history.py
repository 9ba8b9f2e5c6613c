"""The history command moves a history bound back, with a dry run first. A refresh then follows the trades."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from k2_ohlcv.cli import main
from k2_ohlcv.domain.candle import aggregate
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE, read_bound
from k2_ohlcv.operations.history import move_expired_before, move_frozen_before, read_bounds
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv_tests.support import lakes, table_history
from k2_ohlcv_tests.support.candles import DAILY, MINUTE, day_interval
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import AT, make_trade, week_of_trades

BOUND = day_interval(AT + DAY).start


@pytest.fixture
def frozen(sail: EngineLake) -> EngineLake:
    """Three days of which the first is frozen, with a late trade in it."""
    lakes.add_trades(sail.lake, week_of_trades())
    sail.refresh_tables(MINUTE, DAILY)
    table_history.freeze_trades(sail.lake.trades(), BOUND)
    lakes.add_trades(sail.lake, [make_trade(1000, AT + timedelta(minutes=3))])
    sail.refresh_tables(MINUTE, DAILY)
    assert preview_refresh(sail.lake, MINUTE).is_current
    return sail


def test_a_dry_run_changes_no_bound(frozen: EngineLake) -> None:
    """The dry run lists the tables, their bounds and the candles that are affected."""
    changes = move_frozen_before(frozen.lake, BOUND - DAY, apply=False)
    assert {(m.table, m.bound) for m in changes} == {
        ("gold_crypto_trades", "frozen"),
        ("gold_ohlcv_1m", "frozen"),
        ("gold_ohlcv_1d", "frozen"),
    }
    assert {m.before for m in changes} == {BOUND}
    assert all(m.candles for m in changes[1:])
    assert read_bound(frozen.lake.trades(), FROZEN_BEFORE) == BOUND
    assert preview_refresh(frozen.lake, MINUTE).is_current


def test_frozen_windows_follow_the_trades_again(frozen: EngineLake) -> None:
    """The late trade reaches its candle once the bound is earlier."""
    move_frozen_before(frozen.lake, BOUND - DAY, apply=True)
    assert {m.before for m in read_bounds(frozen.lake) if m.bound == "frozen" and m.before} == {BOUND - DAY}
    assert not preview_refresh(frozen.lake, MINUTE).is_current
    frozen.refresh_tables(MINUTE, DAILY)
    late_trade = make_trade(1000, AT + timedelta(minutes=3))
    frozen.assert_equal_to_trades([*week_of_trades(), late_trade], MINUTE, DAILY)
    with pytest.raises(UsageError, match="nothing to move back"):
        move_frozen_before(frozen.lake, BOUND - DAY, apply=True)


def test_dropped_candles_are_computed_again(frozen: EngineLake) -> None:
    """With an earlier `expired_before` a refresh adds the candles again."""
    move_frozen_before(frozen.lake, BOUND - DAY, apply=True)
    frozen.refresh(MINUTE)
    candles = frozen.lake.candles(MINUTE)
    table_history.set_properties(candles, {EXPIRED_BEFORE: BOUND.isoformat()})
    frozen.lake.candles(MINUTE).delete(f"window_start < '{BOUND.isoformat()}'")
    frozen.refresh(MINUTE)
    late_trade = make_trade(1000, AT + timedelta(minutes=3))
    expected = aggregate([*week_of_trades(), late_trade], MINUTE)
    assert lakes.read_candles(frozen.lake, MINUTE) == [c for c in expected if c.window_start >= BOUND]
    move_expired_before(frozen.lake, BOUND - DAY, [MINUTE], apply=True)
    frozen.refresh(MINUTE)
    assert lakes.read_candles(frozen.lake, MINUTE) == expected


def test_external_changes_of_frozen_candles_are_reported(frozen: EngineLake) -> None:
    """Their trades are deleted, so a refresh names the day and leaves it. A rollback restores the candles."""
    before = table_history.current_snapshot_id(frozen.lake.candles(MINUTE))
    stored = lakes.read_candles(frozen.lake, MINUTE)
    frozen.lake.candles(MINUTE).delete(f"window_start < '{BOUND.isoformat()}'")
    plan = preview_refresh(frozen.lake, MINUTE)
    assert "The trades there have expired" in plan.lines()[-1]
    assert plan.as_json()["damaged"] == [f"{BOUND - DAY:%Y-%m-%d}"]
    with capture_logs() as logs:
        frozen.refresh(MINUTE)
    assert [entry["reason"] for entry in logs] == [plan.changed_behind_bounds_text]
    table_history.roll_back(frozen.lake.candles(MINUTE), before)
    frozen.refresh(MINUTE)
    assert lakes.read_candles(frozen.lake, MINUTE) == stored


def test_the_command(
    frozen: EngineLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a bound the command lists the bounds. With one it is a dry run."""
    monkeypatch.setenv("K2_HOME", str(frozen.home))
    main.app(["history", "--frozen-before", f"{BOUND - DAY:%Y-%m-%d}", "--json"], standalone_mode=False)
    output = json.loads(capsys.readouterr().out)
    assert output["applied"] is False
    assert {change["after"] for change in output["lines"]} == {(BOUND - DAY).isoformat()}
    main.app(["history"], standalone_mode=False)
    assert f"{BOUND:%Y-%m-%d}" in capsys.readouterr().out


def test_apply_needs_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names both options."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="--frozen-before or --expired-before"):
        main.app(["history", "--apply"], standalone_mode=False)

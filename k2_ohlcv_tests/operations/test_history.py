"""Moving a line of retention back on purpose: a dry run first; then a refresh follows the trades."""

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

LINE = day_interval(AT + DAY).start


@pytest.fixture
def frozen(sail: EngineLake) -> EngineLake:
    """Three days, the first of them frozen; a late trade came there while it was."""
    lakes.add_trades(sail.lake, week_of_trades())
    for each in (MINUTE, DAILY):
        sail.refresh(each)
    table_history.freeze_trades(sail.lake.trades(), LINE)
    lakes.add_trades(sail.lake, [make_trade(1000, AT + timedelta(minutes=3))])
    for each in (MINUTE, DAILY):
        sail.refresh(each)
    assert preview_refresh(sail.lake, MINUTE).is_current
    return sail


def test_a_dry_run_moves_nothing(frozen: EngineLake) -> None:
    moves = move_frozen_before(frozen.lake, LINE - DAY, apply=False)
    assert {(m.table, m.bound) for m in moves} == {
        ("gold_crypto_trades", "frozen"),
        ("gold_ohlcv_1m", "frozen"),
        ("gold_ohlcv_1d", "frozen"),
    }
    assert {m.before for m in moves} == {LINE}
    assert all(m.candles for m in moves[1:])
    assert read_bound(frozen.lake.trades(), FROZEN_BEFORE) == LINE
    assert preview_refresh(frozen.lake, MINUTE).is_current


def test_what_was_frozen_follows_the_trades_again(frozen: EngineLake) -> None:
    move_frozen_before(frozen.lake, LINE - DAY, apply=True)
    assert {m.before for m in read_bounds(frozen.lake) if m.bound == "frozen" and m.before} == {LINE - DAY}
    assert not preview_refresh(frozen.lake, MINUTE).is_current
    for each in (MINUTE, DAILY):
        frozen.refresh(each)
    late = make_trade(1000, AT + timedelta(minutes=3))
    frozen.assert_equal_to_trades([*week_of_trades(), late], MINUTE, DAILY)
    with pytest.raises(UsageError, match="nothing to move back"):
        move_frozen_before(frozen.lake, LINE - DAY, apply=True)


def test_dropped_candles_are_computed_again(frozen: EngineLake) -> None:
    move_frozen_before(frozen.lake, LINE - DAY, apply=True)
    frozen.refresh(MINUTE)
    candles = frozen.lake.candles(MINUTE)
    table_history.set_properties(candles, {EXPIRED_BEFORE: LINE.isoformat()})
    frozen.lake.candles(MINUTE).delete(f"window_start < '{LINE.isoformat()}'")
    frozen.refresh(MINUTE)
    late = make_trade(1000, AT + timedelta(minutes=3))
    wanted = aggregate([*week_of_trades(), late], MINUTE)
    assert lakes.read_candles(frozen.lake, MINUTE) == [c for c in wanted if c.window_start >= LINE]
    move_expired_before(frozen.lake, LINE - DAY, [MINUTE], apply=True)
    frozen.refresh(MINUTE)
    assert lakes.read_candles(frozen.lake, MINUTE) == wanted


def test_what_another_writer_does_to_frozen_candles_is_said(frozen: EngineLake) -> None:
    """Nobody can compute them again: the refresh that passes them over names them, and a rollback helps."""
    before = table_history.current_snapshot_id(frozen.lake.candles(MINUTE))
    stored = lakes.read_candles(frozen.lake, MINUTE)
    frozen.lake.candles(MINUTE).delete(f"window_start < '{LINE.isoformat()}'")
    told = preview_refresh(frozen.lake, MINUTE)
    assert "where the trades are gone" in told.lines()[-1]
    assert told.as_json()["damaged"] == [f"{LINE - DAY:%Y-%m-%d}"]
    with capture_logs() as logs:
        frozen.refresh(MINUTE)
    assert [line["reason"] for line in logs] == [told.changed_behind_bounds_text]
    table_history.roll_back(frozen.lake.candles(MINUTE), before)
    frozen.refresh(MINUTE)
    assert lakes.read_candles(frozen.lake, MINUTE) == stored


def test_the_command(
    frozen: EngineLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("K2_HOME", str(frozen.home))
    main.app(["history", "--frozen-before", f"{LINE - DAY:%Y-%m-%d}", "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert told["applied"] is False
    assert {one["after"] for one in told["lines"]} == {(LINE - DAY).isoformat()}
    main.app(["history"], standalone_mode=False)
    assert f"{LINE:%Y-%m-%d}" in capsys.readouterr().out


def test_apply_needs_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="--frozen-before or --expired-before"):
        main.app(["history", "--apply"], standalone_mode=False)

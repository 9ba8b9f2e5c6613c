"""The soak with a few batches and a short history: all assertions are true."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.soak.__main__ import app
from bench.soak.assertions import Assertion, speed_wish
from bench.soak.generator import BATCH_LENGTH, FIRST_BATCH, LATE_SHARE, TradeGenerator
from k2_ohlcv.domain.intervals import to_micros


def test_batches_are_seeded_and_some_of_their_trades_are_late() -> None:
    """A batch is always the same and sorted by time. Ids are unique. About 5 % of the trades are late."""
    generator = TradeGenerator(markets=50, trades=4000)
    batches = [generator.batch(number) for number in range(3)]
    assert batches[1].rows.equals(generator.batch(1).rows)
    ids = np.concatenate([batch.rows["trade_id"].to_numpy() for batch in batches])
    assert len(np.unique(ids)) == len(ids)
    for number, batch in enumerate(batches):
        moments = batch.moments
        assert (np.diff(moments) > 0).all()
        assert (moments < to_micros(FIRST_BATCH + (number + 1) * BATCH_LENGTH)).all()
        late = (moments < to_micros(FIRST_BATCH + number * BATCH_LENGTH)).mean()
        assert LATE_SHARE * 0.7 < late < LATE_SHARE * 1.3
        assert set(batch.rows["market"].to_numpy()) == set(range(50))


@pytest.mark.system
def test_a_small_soak_passes(tmp_path: Path) -> None:
    """All required assertions are true, so the exit code is 0, whatever the times are."""
    result = CliRunner().invoke(app, ["--quick", "--home", str(tmp_path / "soak")])
    assert result.exit_code == 0, result.output
    assert "FAILED" not in result.output
    assert result.output.count("passed") == 6
    assert "metadata.json" in result.output


def test_an_assertion_shows_whether_it_is_true_and_a_wish_whether_it_is_met() -> None:
    assert str(Assertion("a", "b", is_true=False)).strip() == "FAILED  a: b"
    assert str(Assertion("a", "b", is_true=True)).strip() == "passed  a: b"
    assert "met" in str(speed_wish("x", [1.0, 1.0], [1.1, 1.1]))
    assert "MISSED" in str(speed_wish("x", [1.0, 1.0], [1.3, 1.3]))

"""The command line beside rows that no waiting cures, and beside other runs."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from structlog.testing import capture_logs

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.cli.pool_wait import PoolWait
from k2_ohlcv.defs import dead_runs
from k2_ohlcv.domain.candle import Trade
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

# Dagster 1.13 reads a pydantic attribute that pydantic 2.14 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

ROOT = Path(__file__).parents[2]
TABLE = "gold_ohlcv_1h"


def trade(number: int, *at: int) -> Trade:
    return make_trade(number, datetime(*at, tzinfo=UTC), 1, 1, market=("X", "A"))  # type: ignore[misc, arg-type]


def test_refresh_with_rows_of_1969_and_9999_ends_at_once_and_says_so(tmp_path: Path) -> None:
    """They are in no candle; nothing is tried again, and nothing waits."""
    lake = lakes.open_lake(tmp_path)
    lakes.add_trades(lake, [trade(0, 2024, 5, 17)])
    lakes.add_trades(lake, [trade(1, 1969, 12, 31, 23, 59, 59), trade(2, 9999, 12, 31, 23, 59, 59)])
    ended = subprocess.run(
        [sys.executable, "-m", "k2_ohlcv.cli.main", "refresh", "--timeframe", "1h", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "K2_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (told,) = json.loads(ended.stdout)["tables"]
    assert (told["added"], len(told["dirty"])) == (1, 1)
    assert f"{TABLE}: check trade_times failed. k2-ohlcv validate shows what fails" in ended.stderr


def test_it_is_said_for_which_run_one_waits(tmp_path: Path) -> None:
    """Once, and not where the other one waits for ours."""
    with open_instance(lakes.lake_settings(tmp_path)) as instance:
        storage = instance.event_log_storage
        ours, other = (
            dg.DagsterRun(job_name=name, tags=tags)
            for name, tags in (("refresh", dead_runs.process_tags()), ("rebuild", {}))
        )
        for run in (ours, other):
            instance.add_run(run)
        storage.initialize_concurrency_limit_to_default(TABLE)
        storage.claim_concurrency_slot(TABLE, other.run_id, "step")
        storage.claim_concurrency_slot(TABLE, ours.run_id, "step")
        waiting = PoolWait(instance, [TABLE])
        with capture_logs() as logs:
            waiting.report_holders()
            waiting.report_holders()
        assert [(line["event"], line["table"], line["run_id"], line["job"]) for line in logs] == [
            ("waiting for another run that writes the table", TABLE, other.run_id, "rebuild")
        ]

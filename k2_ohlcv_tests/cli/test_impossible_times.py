"""The command line with rows of impossible times, and beside another run of the same table."""

import json
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from structlog.testing import capture_logs

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.cli.pool_wait import PoolWait
from k2_ohlcv.defs import dead_runs
from k2_ohlcv.domain.candle import Trade
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.command_line import run
from k2_ohlcv_tests.support.trades import make_trade

TABLE = "gold_ohlcv_1h"


def trade(number: int, *at: int) -> Trade:
    return make_trade(number, datetime(*at, tzinfo=UTC), 1, 1, market=("X", "A"))  # type: ignore[misc, arg-type]


def test_refresh_leaves_out_rows_of_1969_and_9999_and_names_the_failed_check(tmp_path: Path) -> None:
    """The rows are in no candle. The command ends without a retry."""
    lake = lakes.open_lake(tmp_path)
    lakes.add_trades(lake, [trade(0, 2024, 5, 17)])
    lakes.add_trades(lake, [trade(1, 1969, 12, 31, 23, 59, 59), trade(2, 9999, 12, 31, 23, 59, 59)])
    ended = run("refresh", "--timeframe", "1h", "--json", K2_HOME=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    (table,) = json.loads(ended.stdout)["tables"]
    assert (table["added"], len(table["dirty"])) == (1, 1)
    assert f"{TABLE}: check trade_times failed. k2-ohlcv validate shows what fails" in ended.stderr


def test_a_command_that_waits_names_the_run_that_it_waits_for(tmp_path: Path) -> None:
    """The message is logged once. Runs that wait behind this command are not named."""
    with open_instance(lakes.lake_settings(tmp_path)) as instance:
        storage = instance.event_log_storage
        own, other = (
            dg.DagsterRun(job_name=name, tags=tags)
            for name, tags in (("refresh", dead_runs.process_tags()), ("rebuild", {}))
        )
        for dagster_run in (own, other):
            instance.add_run(dagster_run)
        storage.initialize_concurrency_limit_to_default(TABLE)
        storage.claim_concurrency_slot(TABLE, other.run_id, "step")
        storage.claim_concurrency_slot(TABLE, own.run_id, "step")
        waiting = PoolWait(instance, [TABLE])
        with capture_logs() as logs:
            waiting.report_holders()
            waiting.report_holders()
        assert [(line["event"], line["table"], line["run_id"], line["job"]) for line in logs] == [
            ("waiting for another run that writes the table", TABLE, other.run_id, "rebuild")
        ]

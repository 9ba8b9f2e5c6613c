"""Reports the run for which a run of the command line waits: another one that writes the same table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from k2_ohlcv import logs

if TYPE_CHECKING:
    import dagster as dg


class PoolWait:
    """The runs that hold the pools of some tables while steps of this process wait for those pools.

    Args:
        instance: where pools are recorded.
        tables: the names of the tables. The pool of a table has the same name.
    """

    def __init__(self, instance: "dg.DagsterInstance", tables: Sequence[str]) -> None:
        self._instance = instance
        self._tables = tables
        self._reported: set[tuple[str, str]] = set()

    def report_holders(self) -> None:
        """Log each run for which this process waits, once per table."""
        storage = self._instance.event_log_storage
        if not storage.supports_global_concurrency_limits:
            return
        for table in self._tables:
            pool = storage.get_concurrency_info(table)
            if any(map(self._is_own_run, pool.pending_run_ids)):
                for run_id in sorted(pool.active_run_ids):
                    self._report_holder(table, run_id)

    def _is_own_run(self, run_id: str) -> bool:
        from k2_ohlcv.defs import dead_runs

        run = self._instance.get_run_by_id(run_id)
        process = dead_runs.process_tags()
        return run is not None and process.items() <= run.tags.items()

    def _report_holder(self, table: str, run_id: str) -> None:
        if (table, run_id) in self._reported:
            return
        self._reported.add((table, run_id))
        run = self._instance.get_run_by_id(run_id)
        logs.get_logger(__name__).warning(
            "waiting for another run that writes the table",
            table=table,
            run_id=run_id,
            job=run.job_name if run else None,
        )

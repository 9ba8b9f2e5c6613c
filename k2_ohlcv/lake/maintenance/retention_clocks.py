"""Stores the clocks of a table's last retention run as properties of the table.

The properties survive the loss of Dagster's storage. The commit that drops partitions sets them, and a
rollback of the table does not. The rule that uses the clocks is in `domain.retention_limit`.
"""

from collections.abc import Callable
from datetime import datetime

import structlog
from pyiceberg.table import Table

from k2_ohlcv.domain.retention_limit import RetentionClocks
from k2_ohlcv.lake.retry import CONFLICT_ERRORS

DATA_CLOCK = "k2.retention-data-clock"
WALL_CLOCK = "k2.retention-wall-clock"

_log = structlog.get_logger(__name__)


def read_clocks(table: Table) -> RetentionClocks | None:
    """Read the clocks from a table's properties; None where they are missing or unreadable."""
    try:
        moments = [datetime.fromisoformat(table.properties[name]) for name in (DATA_CLOCK, WALL_CLOCK)]
    except (KeyError, ValueError):
        return None
    return RetentionClocks(*moments) if all(moment.tzinfo for moment in moments) else None


def clock_properties(clocks: RetentionClocks) -> dict[str, str]:
    """The clocks as table properties."""
    return {DATA_CLOCK: clocks.data.isoformat(), WALL_CLOCK: clocks.wall.isoformat()}


def commit_clocks(load: Callable[[], Table], clocks: Callable[[Table], RetentionClocks]) -> None:
    """Commit the clocks of a run that dropped no partition.

    A table without a snapshot has no data and is not changed. After a conflict the clocks of an earlier run
    stay. The limit of the next run is then stricter.
    """
    table = load()
    if table.metadata.current_snapshot_id is None:
        return
    try:
        with table.transaction() as transaction:
            transaction.set_properties(clock_properties(clocks(table)))
    except CONFLICT_ERRORS as conflict:
        _log.warning("conflict", table=table.name()[-1], error=str(conflict))

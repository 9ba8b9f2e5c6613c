"""The clocks of a table's last retention run, as properties of the table itself.

They lie beside the partitions that they protect, survive the loss of Dagster's storage, and move in the very
commit that drops. A rollback of the table does not move them. What they mean is in `domain.retention_limit`.
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
    """The clocks that a table remembers; None where there are none, or none that can be read."""
    try:
        found = [datetime.fromisoformat(table.properties[name]) for name in (DATA_CLOCK, WALL_CLOCK)]
    except (KeyError, ValueError):
        return None
    return RetentionClocks(*found) if all(moment.tzinfo for moment in found) else None


def clock_properties(clocks: RetentionClocks) -> dict[str, str]:
    """The clocks as table properties."""
    return {DATA_CLOCK: clocks.data.isoformat(), WALL_CLOCK: clocks.wall.isoformat()}


def commit_clocks(load: Callable[[], Table], clocks: Callable[[Table], RetentionClocks]) -> None:
    """Write the clocks of a run that dropped nothing.

    A table without a snapshot holds nothing to protect, and is left as it is. Where another commit comes
    first, the clocks of an earlier run stay: the next run is then limited sooner, never later.
    """
    table = load()
    if table.metadata.current_snapshot_id is None:
        return
    try:
        with table.transaction() as transaction:
            transaction.set_properties(clock_properties(clocks(table)))
    except CONFLICT_ERRORS as conflict:
        _log.warning("conflict", table=table.name()[-1], error=str(conflict))

"""The drop limit of a retention run: finds drops to hold back, and stores the run's clocks in the tables.

The rule is in `domain.retention_limit`, the clock properties are in `lake.maintenance.retention_clocks`. The
drop is in `table_retention`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pyiceberg.table import Table

from k2_ohlcv.domain.retention_limit import MAX_PARTITIONS, RetentionClocks, is_drop_held_back, next_clocks
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.maintenance.partition_drops import PartitionsToDrop
from k2_ohlcv.lake.maintenance.retention_clocks import clock_properties, commit_clocks, read_clocks
from k2_ohlcv.lake.newest_trade import NewestTrade
from k2_ohlcv.operations.retention_report import HeldBack


@dataclass(frozen=True)
class DropLimit:
    """The drop limit of all tables in one run.

    Attributes:
        now: the clocks of this run; None without trades.
        newest: the trade that set the data clock; None if a person chose the moment.
        is_enforced: whether a drop above the limit is held back, as in scheduled runs. Otherwise such a drop
            is only reported.
    """

    now: RetentionClocks | None = None
    newest: NewestTrade | None = None
    is_enforced: bool = False

    def find_held_back(self, table: Table, grain: Grain, drop: PartitionsToDrop) -> HeldBack | None:
        """Return the whole drop if it exceeds the limit, else None."""
        before = read_clocks(table)
        if self.now is None or not is_drop_held_back(len(drop.partitions), grain, before, self.now):
            return None
        keys = tuple(grain.key(partition) for partition in drop.partitions)
        reason = self._reason(table.name()[-1], keys, grain, before, self.now)
        return HeldBack(keys, drop.rows, drop.bytes, reason)

    def properties(self, table: Table) -> dict[str, str]:
        """Return the table properties that the commit of a drop sets."""
        # A moment that a person chose is not the data clock.
        if self.now is None or self.newest is None:
            return {}
        return clock_properties(self._stored_clocks(table, self.now))

    def store_clocks(self, load: Callable[[], Table]) -> None:
        """Store the clocks of this run in a table from which the run dropped nothing."""
        now = self.now
        if now is not None and self.newest is not None:
            commit_clocks(load, lambda table: self._stored_clocks(table, now))

    def _stored_clocks(self, table: Table, now: RetentionClocks) -> RetentionClocks:
        return next_clocks(read_clocks(table), now, knowingly=not self.is_enforced)

    def _reason(
        self,
        name: str,
        keys: tuple[str, ...],
        grain: Grain,
        before: RetentionClocks | None,
        now: RetentionClocks,
    ) -> str:
        allowed = MAX_PARTITIONS[grain]
        cause = (
            f"since the run of {before.wall:%Y-%m-%d} the newest trade moved from {before.data:%Y-%m-%d} to "
            f"{now.data:%Y-%m-%d}, further than the wall clock"
            if before
            else "there is no earlier run to compare with"
        )
        clock = f"{now.data:%Y-%m-%d %H:%M:%S} UTC"
        origin = f"by {self.newest.as_text}" if self.newest else "on request"
        return (
            f"one run would drop {len(keys):,} {grain.value} partitions of {name}, {keys[0]} to {keys[-1]}, "
            f"and {cause}. A scheduled run then drops at most {allowed}. Ages are measured from {clock}, set "
            f"{origin}. If this time is right, apply the drop yourself: k2-ohlcv retention --apply, or the "
            "retention job with apply: true. If it is wrong, delete that trade"
        )

"""The limit of a retention run: how much it may drop of a table, and what the table remembers of the run.

The rule is in `domain.retention_limit`, the clocks in `lake.maintenance.retention_clocks`, the drop in
`retention`.
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
    """What holds for all tables of a run.

    Attributes:
        now: the clocks of this run; None where nothing has an age.
        newest: the trade that set the data's clock; None where the moment was asked for.
        is_enforced: whether what exceeds the limit stays: so for scheduled runs. Else it is only told.
    """

    now: RetentionClocks | None = None
    newest: NewestTrade | None = None
    is_enforced: bool = False

    def find_held_back(self, table: Table, grain: Grain, going: PartitionsToDrop) -> HeldBack | None:
        """What of a table exceeds the limit: all that goes from it, or None."""
        before = read_clocks(table)
        if self.now is None or not is_drop_held_back(len(going.partitions), grain, before, self.now):
            return None
        keys = tuple(grain.key(partition) for partition in going.partitions)
        return HeldBack(
            keys, going.rows, going.bytes, self._reason(table.name()[-1], keys, grain, before, self.now)
        )

    def properties(self, table: Table) -> dict[str, str]:
        """The table properties that a dropping commit sets."""
        # A moment that was asked for says nothing of the data's clock.
        if self.now is None or self.newest is None:
            return {}
        return clock_properties(self._stored_clocks(table, self.now))

    def store_clocks(self, load: Callable[[], Table]) -> None:
        """Have a table remember a run that dropped nothing of it."""
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
        moved = (
            f"since the run of {before.wall:%Y-%m-%d} the data's clock moved from {before.data:%Y-%m-%d} to "
            f"{now.data:%Y-%m-%d}, further than the wall clock"
            if before
            else "no earlier run is remembered"
        )
        clock = f"{now.data:%Y-%m-%d %H:%M:%S} UTC"
        cause = f"by {self.newest.as_text}" if self.newest else "on request"
        return (
            f"{len(keys):,} {grain.value} partitions of {name}, {keys[0]} to {keys[-1]}, would go at once, "
            f"and {moved}. A scheduled run then drops at most {allowed}. Ages are measured from {clock}, set "
            f"{cause}. If that is right, drop them knowingly: k2-ohlcv retention --apply, or the retention "
            "job with apply: true. If not, remove that trade"
        )

"""The tags and the partition of a refresh run, the same for a sensor as for the command line."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.lake.metadata.lag import TableLag

TABLE_TAG = "k2/table"
WATERMARK_TAG = "k2/watermark"
SNAPSHOT_TAG = "k2/snapshot"
CANDLES_TAG = "k2/candles-snapshot"
ATTEMPT_TAG = "k2/attempt"
#: The tag of a run that failed only because it refused windows. The sensor repeats it at the table's pace.
REFUSED_TAG = "k2/refused-windows"


def newest_dirty_partition(
    partitions: dg.PartitionsDefinition[Any], grain: Grain, dirty: Sequence[Interval]
) -> str:
    """The newest dirty partition that the definition has; its last partition if it has none of them."""
    keys = (grain.key(partition) for partition in sorted(dirty, reverse=True))
    last = partitions.get_last_partition_key()
    assert last is not None
    return next((key for key in keys if partitions.has_partition_key(key)), last)


def refresh_tags(lag: TableLag) -> dict[str, str]:
    """The tags of a refresh run: its table, and the snapshots that it starts from."""
    return {
        TABLE_TAG: lag.timeframe.table,
        WATERMARK_TAG: str(lag.watermark or "none"),
        CANDLES_TAG: str(lag.candles_snapshot or "none"),
        SNAPSHOT_TAG: str(lag.snapshot or "none"),
    }

"""Which partition a refresh names, and which tags its run carries: the same from the sensors and by hand."""

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
#: On a run that failed for named windows only: it is asked for again at the table's own pace.
REFUSED_TAG = "k2/refused-windows"


def newest_dirty_partition(
    there: dg.PartitionsDefinition[Any], grain: Grain, dirty: Sequence[Interval]
) -> str:
    """The newest of the partitions that the definition has; its last one if it has none of them."""
    keys = (grain.key(partition) for partition in sorted(dirty, reverse=True))
    last = there.get_last_partition_key()
    assert last is not None
    return next((key for key in keys if there.has_partition_key(key)), last)


def refresh_tags(found: TableLag) -> dict[str, str]:
    """The tags that say what a refresh starts from and what it was asked for."""
    return {
        TABLE_TAG: found.timeframe.table,
        WATERMARK_TAG: str(found.watermark or "none"),
        CANDLES_TAG: str(found.candles_snapshot or "none"),
        SNAPSHOT_TAG: str(found.snapshot or "none"),
    }

"""Builds the commit of a candle table from a change of its files and a watermark.

Computing the change is in `reconcile` and `lake.candles`.
"""

from pyiceberg.table import Table

from k2_ohlcv.lake.candles import CandleFileChange
from k2_ohlcv.lake.commit import TableCommit
from k2_ohlcv.lake.missing_table import MissingTable
from k2_ohlcv.lake.watermark import Watermark


def build_candle_commit(
    candles: Table, change: CandleFileChange | None, mark: Watermark | None, properties: dict[str, str]
) -> TableCommit | None:
    """Build the next commit. None if the stored candles and the stored watermark are already right."""
    is_empty = change is None or change.is_empty
    if isinstance(candles, MissingTable) and is_empty:
        return None  # the first candles create the table
    is_stored = mark is None or _is_watermark_stored(candles, mark, is_reconciled=change is not None)
    missing = {key: value for key, value in properties.items() if candles.properties.get(key) != value}
    if is_empty and is_stored and not missing:
        return None
    return TableCommit(
        removed_files=() if change is None else tuple(task.file for task in change.removed),
        rows=None if change is None else change.rows,
        file_rows=() if change is None else change.file_rows,
        properties={**missing, **(mark.properties() if mark else {})},
        summary=mark.summary() if mark else {},
    )


def _is_watermark_stored(candles: Table, mark: Watermark, *, is_reconciled: bool) -> bool:
    """Whether the candle table already has this watermark.

    A watermark also counts as not stored if its time bounds now include more trades. These trades have been
    reconciled, and would stay open under the stored bounds.
    """
    stored = Watermark.from_table(candles)
    if mark != stored or not mark.is_mirrored(candles):
        return False
    has_later_end = is_reconciled and mark.until != stored.until
    has_earlier_bound = stored.frozen_before is not None and (
        mark.frozen_before is None or mark.frozen_before < stored.frozen_before
    )
    return not (has_later_end or has_earlier_bound)

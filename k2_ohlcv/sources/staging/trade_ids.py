"""Which trade a row is: ids where there are none, and rows of one batch that are the same trade.

Works on batches in the order of time, as `sort_buffer` gives them; all rows of one microsecond are in one
batch.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.sources.columns import Int64s
from k2_ohlcv.sources.decimals import is_plain_text
from k2_ohlcv.sources.staging.sort_buffer import to_micros_array

Mask = npt.NDArray[np.bool_]

_DAY_MICROS = 86_400_000_000


@dataclass(frozen=True)
class BatchWithIds:
    """A batch whose rows all have ids.

    Attributes:
        rows: the batch, `trade_id` filled.
        generated_id: which ids were made.
        first_duplicate: for each row, the row of the batch that came first (by file and line) with the same
            market and id; itself, nearly always.
        shared_timestamps: rows with made ids whose market and time an earlier file of the same call has too.
        has_daily_ids: rows whose id is unique in its day only; None where there are none.
    """

    rows: pa.Table
    generated_id: Mask
    first_duplicate: Int64s
    shared_timestamps: Mask
    has_daily_ids: Mask | None = None


def assign_ids(rows: pa.Table, daily_files: Collection[int] = ()) -> BatchWithIds:
    """Give every row of a batch its id, and find the rows that share one.

    Args:
        rows: the batch.
        daily_files: the numbers of files whose ids are unique in their day only.

    A made id is `<timestamp in µs>-<ordinal>`, the ordinal counted from 0 among the rows of that market and
    time in the file, so that equal rows stay distinct trades and the same file gives the same ids.
    """
    made: Mask = rows["trade_id"].is_null().to_numpy(zero_copy_only=False)
    met = np.zeros(rows.num_rows, bool)
    if made.any():
        rows, met = _generate_ids(rows, made)
    # Made ids are told apart by how they are made, but for those that an earlier file made too.
    apart = made.all() and not met.any()
    daily = np.isin(rows["file"].to_numpy(), list(daily_files)) if daily_files else None
    first = np.arange(len(made)) if apart else _first_duplicates(rows, daily)
    return BatchWithIds(rows, made, first, met, daily)


def _generate_ids(rows: pa.Table, made: Mask) -> tuple[pa.Table, Mask]:
    times = to_micros_array(rows)
    at = np.flatnonzero(made)
    markets, files = rows["market"].to_numpy()[at], rows["file"].to_numpy()[at]
    order = np.lexsort((files, times[at], markets))  # stable: lines stay in order
    at, markets, files = at[order], markets[order], files[order]
    moments = times[at]
    new_moment = _change_mask(markets) | _change_mask(moments)
    new_file = new_moment | _change_mask(files)
    ordinals = _rows_since_last(new_file)
    ids = pc.binary_join_element_wise(
        pc.cast(pa.array(moments), pa.string()), pc.cast(pa.array(ordinals), pa.string()), "-"
    )
    back = np.argsort(at, kind="stable")
    filled = pc.replace_with_mask(rows["trade_id"].combine_chunks(), pa.array(made), ids.take(pa.array(back)))
    met = np.zeros(len(made), bool)
    # A later file of the same market and time: past its first file's rows, counted from where the time began.
    first_file = files[np.maximum.accumulate(np.where(new_moment, np.arange(len(at)), 0))]
    met[at[files != first_file]] = True
    return rows.set_column(rows.schema.get_field_index("trade_id"), "trade_id", filled), met


def _change_mask(values: npt.NDArray[np.integer]) -> Mask:
    changed = np.ones(len(values), bool)
    changed[1:] = values[1:] != values[:-1]
    return changed


def _rows_since_last(starts: Mask) -> Int64s:
    positions = np.arange(len(starts), dtype=np.int64)
    ordinals: Int64s = positions - np.maximum.accumulate(np.where(starts, positions, 0))
    return ordinals


def _first_duplicates(rows: pa.Table, daily: Mask | None) -> Int64s:
    own = np.arange(rows.num_rows, dtype=np.int64)
    codes = _id_codes(rows)
    if codes is None:
        return own
    if daily is not None:
        days = np.where(daily, to_micros_array(rows) // _DAY_MICROS + 1, 0)
        codes = np.unique(np.stack([codes, days]), axis=1, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((rows["line"].to_numpy(), rows["file"].to_numpy(), codes))
    heads = np.maximum.accumulate(np.where(_change_mask(codes[order]), own, 0))
    first = np.empty_like(own)
    first[order] = order[heads]
    return first


def _id_codes(rows: pa.Table) -> Int64s | None:
    """A number for each market and id, or None where it is plain that no two rows share them."""
    ids = rows["trade_id"].combine_chunks()
    markets = rows["market"].to_numpy()
    if len(ids) < 2:
        return None
    # Integers that differ come from texts that differ: cheaper to see than the texts themselves.
    if is_plain_text(ids, point=False) and not (markets != markets[0]).any():
        numbers = pc.cast(ids, pa.int64()).to_numpy()
        if (np.diff(numbers) > 0).all() or (np.diff(np.sort(numbers)) > 0).all():
            return None
    texts = ids.dictionary_encode()
    codes: Int64s = texts.indices.to_numpy().astype(np.int64) * (int(markets.max()) + 1) + markets
    return codes if len(np.unique(codes)) < len(codes) else None

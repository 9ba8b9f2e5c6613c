"""Generates ids for trades without ids, and finds duplicate ids within a batch.

Batches are in time order, from `sort_buffer`. All rows of one microsecond are in one batch.
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
    """A batch in which every row has an id.

    Attributes:
        rows: the batch, with `trade_id` filled.
        generated_id: rows with a generated id.
        first_duplicate: for each row, the index of the first row (by file and line) with the same market and
            id. For nearly every row this is the row itself.
        shared_timestamps: rows with generated ids whose market and time also appear in an earlier file.
        has_daily_ids: rows whose id is unique only within its day. None if the batch has no such row.
    """

    rows: pa.Table
    generated_id: Mask
    first_duplicate: Int64s
    shared_timestamps: Mask
    has_daily_ids: Mask | None = None


def assign_ids(rows: pa.Table, daily_files: Collection[int] = ()) -> BatchWithIds:
    """Generate missing ids of a batch, and find rows with the same id.

    A generated id is `<timestamp in µs>-<ordinal>`. The ordinal counts from 0 among the rows of a file with
    the same market and time. Equal rows therefore stay distinct trades, and a file always gives the same ids.

    Args:
        rows: the batch.
        daily_files: the numbers of files whose ids are unique only within a day.
    """
    is_generated: Mask = rows["trade_id"].is_null().to_numpy(zero_copy_only=False)
    is_shared = np.zeros(rows.num_rows, bool)
    if is_generated.any():
        rows, is_shared = _generate_ids(rows, is_generated)
    # Generated ids are unique, unless an earlier file has the same market and time.
    all_unique = is_generated.all() and not is_shared.any()
    daily = np.isin(rows["file"].to_numpy(), list(daily_files)) if daily_files else None
    first = np.arange(len(is_generated)) if all_unique else _first_duplicates(rows, daily)
    return BatchWithIds(rows, is_generated, first, is_shared, daily)


def _generate_ids(rows: pa.Table, is_generated: Mask) -> tuple[pa.Table, Mask]:
    times = to_micros_array(rows)
    at = np.flatnonzero(is_generated)
    markets, files = rows["market"].to_numpy()[at], rows["file"].to_numpy()[at]
    order = np.lexsort((files, times[at], markets))  # a stable sort keeps the order of lines
    at, markets, files = at[order], markets[order], files[order]
    moments = times[at]
    new_moment = _change_mask(markets) | _change_mask(moments)
    new_file = new_moment | _change_mask(files)
    ordinals = _rows_since_last(new_file)
    ids = pc.binary_join_element_wise(
        pc.cast(pa.array(moments), pa.string()), pc.cast(pa.array(ordinals), pa.string()), "-"
    )
    back = np.argsort(at, kind="stable")
    filled = pc.replace_with_mask(
        rows["trade_id"].combine_chunks(), pa.array(is_generated), ids.take(pa.array(back))
    )
    is_shared = np.zeros(len(is_generated), bool)
    # Find rows whose file is not the first file with the same market and time.
    first_file = files[np.maximum.accumulate(np.where(new_moment, np.arange(len(at)), 0))]
    is_shared[at[files != first_file]] = True
    return rows.set_column(rows.schema.get_field_index("trade_id"), "trade_id", filled), is_shared


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
    """Number each pair of market and id. None if no two rows have the same pair."""
    ids = rows["trade_id"].combine_chunks()
    markets = rows["market"].to_numpy()
    if len(ids) < 2:
        return None
    # Different integers have different texts. Comparing integers is cheaper than comparing texts.
    if is_plain_text(ids, point=False) and not (markets != markets[0]).any():
        numbers = pc.cast(ids, pa.int64()).to_numpy()
        if (np.diff(numbers) > 0).all() or (np.diff(np.sort(numbers)) > 0).all():
            return None
    texts = ids.dictionary_encode()
    codes: Int64s = texts.indices.to_numpy().astype(np.int64) * (int(markets.max()) + 1) + markets
    ordered = np.sort(codes)  # np.unique hashes, which is several times slower for millions of codes
    return codes if (ordered[1:] == ordered[:-1]).any() else None

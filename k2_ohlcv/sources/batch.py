"""What every format gives: bounded batches of trades, and of rows that cannot be one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.sources.market import Market
from k2_ohlcv.sources.values import PRICE, QUANTITY, Column, Int64s, decimals, text_bytes, times

MICROS = pa.timestamp("us", "UTC")
NAME = pa.dictionary(pa.int32(), pa.string())

TRADES = pa.schema(
    [
        ("exchange", NAME),
        ("symbol", NAME),
        ("trade_id", pa.string()),
        ("timestamp", MICROS),
        ("price", PRICE.type),
        ("quantity", QUANTITY.type),
        ("line", pa.int64()),
    ]
)
REJECTED = pa.schema(
    [
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("exchange", pa.string()),
        ("symbol", pa.string()),
        ("timestamp", MICROS),
    ]
)


@dataclass(frozen=True)
class Rows:
    """Rows as a format names their columns, not yet judged.

    Attributes:
        columns: role (`timestamp`, `price`, `quantity`, and where there are `trade_id`, `exchange`,
            `symbol`) to column.
        lines: the 1-based physical line, or row of a Parquet file, of each row.
        raw: the text of a row, given its number in these rows.
        broken: line, reason and text of what is not even a row.
    """

    columns: Mapping[str, pa.Array]
    lines: Int64s
    raw: Callable[[int], str]
    broken: tuple[tuple[int, str, str], ...] = ()


@dataclass(frozen=True)
class Batch:
    """Trades of a file in the order of their lines, and the rows that are none.

    Attributes:
        trades: of schema `TRADES`; `trade_id` is null where the format has none.
        rejected: of schema `REJECTED`; `timestamp` is null where it is what is wrong.
        daily_ids: whether ids are unique in their day only, as the format says.
    """

    trades: pa.Table
    rejected: pa.Table
    daily_ids: bool = False


def judge(rows: Rows, market: Market, now: datetime) -> Batch:
    """Convert rows and part the trades from what cannot be one."""
    size = len(rows.lines)
    moments = times(rows.columns["timestamp"], now)
    prices = decimals(_texts(rows.columns["price"]), PRICE)
    quantities = decimals(_texts(rows.columns["quantity"]), QUANTITY)
    ids = _ids(rows.columns.get("trade_id"), size)
    exchanges = _names("exchange", market.exchange, rows.columns, size)
    symbols = _names("symbol", market.symbol, rows.columns, size)
    parts = (moments, prices, quantities, ids, exchanges, symbols)
    arrays = [p.values for p in (exchanges, symbols, ids, moments, prices, quantities)]
    trades = pa.Table.from_arrays([*arrays, pa.array(rows.lines)], schema=TRADES)
    bad = np.array(sorted(set().union(*(p.faults for p in parts))), np.int64)
    if len(bad):
        keep = np.ones(size, bool)
        keep[bad] = False
        rejected = _rejected(rows, trades.take(pa.array(bad)), bad, parts)
        trades = trades.filter(pa.array(keep))
    else:
        rejected = REJECTED.empty_table()
    return Batch(trades, _with_broken(rejected, rows.broken, market))


def _rejected(rows: Rows, trades: pa.Table, bad: Int64s, parts: tuple[Column, ...]) -> pa.Table:
    reasons = ["; ".join(p.faults[i] for p in parts if i in p.faults) for i in bad.tolist()]
    dated = pa.array([i not in parts[0].faults for i in bad.tolist()], pa.bool_())
    blank = pa.scalar(None, pa.string())

    def name(column: str) -> pa.Array:
        texts = pc.cast(trades[column].combine_chunks(), pa.string())
        return pc.if_else(pc.equal(texts, ""), blank, texts)

    return pa.Table.from_arrays(
        [
            trades["line"],
            pa.array(reasons, pa.string()),
            pa.array([rows.raw(i) for i in bad.tolist()], pa.string()),
            name("exchange"),
            name("symbol"),
            pc.if_else(dated, trades["timestamp"], pa.scalar(None, MICROS)),
        ],
        schema=REJECTED,
    )


def _with_broken(rejected: pa.Table, broken: tuple[tuple[int, str, str], ...], market: Market) -> pa.Table:
    if not broken:
        return rejected
    lines, reasons, raws = zip(*broken, strict=True)
    size = len(broken)
    more = pa.Table.from_arrays(
        [
            pa.array(lines, pa.int64()),
            pa.array(reasons, pa.string()),
            pa.array(raws, pa.string()),
            pa.array([market.exchange] * size, pa.string()),
            pa.array([market.symbol] * size, pa.string()),
            pa.nulls(size, MICROS),
        ],
        schema=REJECTED,
    )
    return pa.concat_tables([rejected, more]).sort_by("line")


def _texts(column: pa.Array) -> pa.Array:
    # Arrow writes a float as the shortest text that reads back as the same float, which is what its
    # owner meant; an integer or a decimal of any scale becomes its exact digits.
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def trimmed(texts: pa.Array) -> pa.Array:
    """The texts without spaces around them; null is the empty text."""
    texts = pc.fill_null(texts, "") if texts.null_count else texts
    return pc.utf8_trim_whitespace(texts) if (text_bytes(texts) <= ord(" ")).any() else texts


def _ids(column: pa.Array | None, size: int) -> Column:
    if column is None:
        return Column(pa.nulls(size, pa.string()), {})
    texts = trimmed(pc.cast(column, pa.string()))
    return Column(texts, _empties(texts, "trade_id is empty"))


def _names(role: str, given: str | None, columns: Mapping[str, pa.Array], size: int) -> Column:
    if given is not None:
        indices = pa.array(np.zeros(size, np.int32))
        return Column(pa.DictionaryArray.from_arrays(indices, pa.array([given])), {})
    texts = trimmed(pc.cast(columns[role], pa.string()))
    return Column(texts.dictionary_encode(), _empties(texts, f"{role} is empty"))


def _empties(texts: pa.Array, reason: str) -> dict[int, str]:
    empty = pc.equal(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
    return {int(row): reason for row in np.flatnonzero(empty)}

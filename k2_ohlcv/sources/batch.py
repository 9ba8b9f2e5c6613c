"""What every format gives: bounded batches of trades, and of rows that cannot be one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.sources.market import Market
from k2_ohlcv.sources.names import parse_names
from k2_ohlcv.sources.timestamps import times
from k2_ohlcv.sources.values import PRICE, QUANTITY, Column, Int64s, decimals

MICROS = pa.timestamp("us", "UTC")
NAME = pa.dictionary(pa.int32(), pa.string())

#: Characters of a refused row's text that are kept; "..." stands for the others.
MAX_RAW = 1_000
#: The reason of a last line that has no end of line: it may have been cut within a number.
UNTERMINATED = "unterminated"

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
#: What is not even a row of a table.
BROKEN = pa.schema([REJECTED.field(name) for name in ("line", "reason", "raw")])


@dataclass(frozen=True)
class Rows:
    """Rows as a format names their columns, not yet judged.

    Attributes:
        columns: role (`timestamp`, `price`, `quantity`, and where there are `trade_id`, `exchange`,
            `symbol`) to column.
        lines: the 1-based physical line, or row of a Parquet file, of each row.
        raw: the text of a row, given its number in these rows.
        broken: what is not even a row, of schema `BROKEN`.
    """

    columns: Mapping[str, pa.Array]
    lines: Int64s
    raw: Callable[[int], str]
    broken: pa.Table = field(default_factory=BROKEN.empty_table)


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

    @property
    def unterminated(self) -> int | None:
        """The line of the file that may be cut, where this batch has that."""
        reasons = self.rejected["reason"]
        last = reasons[-1].as_py() if len(reasons) else None
        return int(self.rejected["line"][-1].as_py()) if last == UNTERMINATED else None


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
    moments, *_, exchanges, symbols = parts
    return pa.Table.from_arrays(
        [
            trades["line"],
            pa.array(reasons, pa.string()),
            pa.array((cut_raw(rows.raw(i)) for i in bad.tolist()), pa.string()),
            _where_right(pc.cast(trades["exchange"].combine_chunks(), pa.string()), bad, exchanges),
            _where_right(pc.cast(trades["symbol"].combine_chunks(), pa.string()), bad, symbols),
            _where_right(trades["timestamp"].combine_chunks(), bad, moments),
        ],
        schema=REJECTED,
    )


def _where_right(values: pa.Array, rows: Int64s, part: Column) -> pa.Array:
    """The values of rows, null where a value itself is what is wrong."""
    right = pa.array([row not in part.faults for row in rows.tolist()], pa.bool_())
    return pc.if_else(right, values, pa.scalar(None, values.type))


def _with_broken(rejected: pa.Table, broken: pa.Table, market: Market) -> pa.Table:
    size = broken.num_rows
    if not size:
        return rejected
    more = pa.Table.from_arrays(
        [
            *broken.columns,
            pa.repeat(pa.scalar(market.exchange, pa.string()), size),
            pa.repeat(pa.scalar(market.symbol, pa.string()), size),
            pa.nulls(size, MICROS),
        ],
        schema=REJECTED,
    )
    return pa.concat_tables([rejected, more]).sort_by("line") if rejected.num_rows else more


def cut_raw(text: str) -> str:
    """As much of a refused row's text as is kept."""
    return text if len(text) <= MAX_RAW else f"{text[:MAX_RAW]}..."


def _texts(column: pa.Array) -> pa.Array:
    # Arrow writes a float as the shortest text that reads back as the same float, which is what its
    # owner meant; an integer or a decimal of any scale becomes its exact digits.
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def _ids(column: pa.Array | None, size: int) -> Column:
    if column is None:
        return Column(pa.nulls(size, pa.string()), {})
    return parse_names("trade_id", column)


def _names(role: str, given: str | None, columns: Mapping[str, pa.Array], size: int) -> Column:
    if given is not None:
        indices = pa.array(np.zeros(size, np.int32))
        return Column(pa.DictionaryArray.from_arrays(indices, pa.array([given])), {})
    parsed = parse_names(role, columns[role])
    return Column(parsed.values.dictionary_encode(), parsed.faults)

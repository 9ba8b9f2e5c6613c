"""What every format gives: bounded batches of trades, and of rows that cannot be one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.sources.columns import Int64s, ParsedColumn
from k2_ohlcv.sources.decimals import PRICE, QUANTITY, parse_decimals
from k2_ohlcv.sources.market import Market
from k2_ohlcv.sources.name_columns import parse_names
from k2_ohlcv.sources.timestamps import parse_times

TIMESTAMP_TYPE = pa.timestamp("us", "UTC")
NAME_TYPE = pa.dictionary(pa.int32(), pa.string())

#: Characters of a refused row's text that are kept; "..." stands for the others.
MAX_RAW_TEXT = 1_000
#: The reason of a last line that has no end of line: it may have been cut within a number.
UNTERMINATED_REASON = "unterminated"

TRADES_SCHEMA = pa.schema(
    [
        ("exchange", NAME_TYPE),
        ("symbol", NAME_TYPE),
        ("trade_id", pa.string()),
        ("timestamp", TIMESTAMP_TYPE),
        ("price", PRICE.type),
        ("quantity", QUANTITY.type),
        ("line", pa.int64()),
    ]
)
REJECTED_SCHEMA = pa.schema(
    [
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("exchange", pa.string()),
        ("symbol", pa.string()),
        ("timestamp", TIMESTAMP_TYPE),
    ]
)
#: What is not even a row of a table.
BROKEN_SCHEMA = pa.schema([REJECTED_SCHEMA.field(name) for name in ("line", "reason", "raw")])


@dataclass(frozen=True)
class RawRows:
    """Rows as a format names their columns, not yet judged.

    Attributes:
        columns: role (`timestamp`, `price`, `quantity`, and where there are `trade_id`, `exchange`,
            `symbol`) to column.
        lines: the 1-based physical line, or row of a Parquet file, of each row.
        raw: the text of a row, given its number in these rows.
        broken: what is not even a row, of schema `BROKEN_SCHEMA`.
    """

    columns: Mapping[str, pa.Array]
    lines: Int64s
    raw: Callable[[int], str]
    broken: pa.Table = field(default_factory=BROKEN_SCHEMA.empty_table)


@dataclass(frozen=True)
class ParsedBatch:
    """Trades of a file in the order of their lines, and the rows that are none.

    Attributes:
        trades: of schema `TRADES_SCHEMA`; `trade_id` is null where the format has none.
        rejected: of schema `REJECTED_SCHEMA`; `timestamp` is null where it is what is wrong.
        daily_ids: whether ids are unique in their day only, as the format says.
    """

    trades: pa.Table
    rejected: pa.Table
    daily_ids: bool = False

    @property
    def has_unterminated_line(self) -> int | None:
        """The line of the file that may be cut, where this batch has that."""
        reasons = self.rejected["reason"]
        last = reasons[-1].as_py() if len(reasons) else None
        return int(self.rejected["line"][-1].as_py()) if last == UNTERMINATED_REASON else None


def parse_rows(rows: RawRows, market: Market, now: datetime) -> ParsedBatch:
    """Convert rows and part the trades from what cannot be one."""
    size = len(rows.lines)
    moments = parse_times(rows.columns["timestamp"], now)
    prices = parse_decimals(_as_texts(rows.columns["price"]), PRICE)
    quantities = parse_decimals(_as_texts(rows.columns["quantity"]), QUANTITY)
    ids = _parse_ids(rows.columns.get("trade_id"), size)
    exchanges = _market_names("exchange", market.exchange, rows.columns, size)
    symbols = _market_names("symbol", market.symbol, rows.columns, size)
    parts = (moments, prices, quantities, ids, exchanges, symbols)
    arrays = [p.values for p in (exchanges, symbols, ids, moments, prices, quantities)]
    trades = pa.Table.from_arrays([*arrays, pa.array(rows.lines)], schema=TRADES_SCHEMA)
    bad = np.array(sorted(set().union(*(p.errors for p in parts))), np.int64)
    if len(bad):
        keep = np.ones(size, bool)
        keep[bad] = False
        rejected = _rejected_rows(rows, trades.take(pa.array(bad)), bad, parts)
        trades = trades.filter(pa.array(keep))
    else:
        rejected = REJECTED_SCHEMA.empty_table()
    return ParsedBatch(trades, _add_broken_rows(rejected, rows.broken, market))


def _rejected_rows(rows: RawRows, trades: pa.Table, bad: Int64s, parts: tuple[ParsedColumn, ...]) -> pa.Table:
    reasons = ["; ".join(p.errors[i] for p in parts if i in p.errors) for i in bad.tolist()]
    moments, *_, exchanges, symbols = parts
    return pa.Table.from_arrays(
        [
            trades["line"],
            pa.array(reasons, pa.string()),
            pa.array((truncate_raw(rows.raw(i)) for i in bad.tolist()), pa.string()),
            _valid_values(pc.cast(trades["exchange"].combine_chunks(), pa.string()), bad, exchanges),
            _valid_values(pc.cast(trades["symbol"].combine_chunks(), pa.string()), bad, symbols),
            _valid_values(trades["timestamp"].combine_chunks(), bad, moments),
        ],
        schema=REJECTED_SCHEMA,
    )


def _valid_values(values: pa.Array, rows: Int64s, part: ParsedColumn) -> pa.Array:
    """The values of rows, null where a value itself is what is wrong."""
    right = pa.array([row not in part.errors for row in rows.tolist()], pa.bool_())
    return pc.if_else(right, values, pa.scalar(None, values.type))


def _add_broken_rows(rejected: pa.Table, broken: pa.Table, market: Market) -> pa.Table:
    size = broken.num_rows
    if not size:
        return rejected
    more = pa.Table.from_arrays(
        [
            *broken.columns,
            pa.repeat(pa.scalar(market.exchange, pa.string()), size),
            pa.repeat(pa.scalar(market.symbol, pa.string()), size),
            pa.nulls(size, TIMESTAMP_TYPE),
        ],
        schema=REJECTED_SCHEMA,
    )
    return pa.concat_tables([rejected, more]).sort_by("line") if rejected.num_rows else more


def truncate_raw(text: str) -> str:
    """As much of a refused row's text as is kept."""
    return text if len(text) <= MAX_RAW_TEXT else f"{text[:MAX_RAW_TEXT]}..."


def _as_texts(column: pa.Array) -> pa.Array:
    # Arrow writes a float as the shortest text that reads back as the same float, which is what its
    # owner meant; an integer or a decimal of any scale becomes its exact digits.
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def _parse_ids(column: pa.Array | None, size: int) -> ParsedColumn:
    if column is None:
        return ParsedColumn(pa.nulls(size, pa.string()), {})
    return parse_names("trade_id", column)


def _market_names(role: str, given: str | None, columns: Mapping[str, pa.Array], size: int) -> ParsedColumn:
    if given is not None:
        indices = pa.array(np.zeros(size, np.int32))
        return ParsedColumn(pa.DictionaryArray.from_arrays(indices, pa.array([given])), {})
    parsed = parse_names(role, columns[role])
    return ParsedColumn(parsed.values.dictionary_encode(), parsed.errors)

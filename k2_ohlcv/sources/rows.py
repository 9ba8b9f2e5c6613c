"""Converts raw rows of any format into a batch of trades and a batch of rejected rows."""

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

#: The longest stored text of a rejected row, in characters. "..." replaces the rest.
MAX_RAW_TEXT = 1_000
#: The reason for a last line without an end of line. The line may be cut inside a number.
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
#: Lines that cannot be split into the expected columns.
BROKEN_SCHEMA = pa.schema([REJECTED_SCHEMA.field(name) for name in ("line", "reason", "raw")])


@dataclass(frozen=True)
class RawRows:
    """Rows with a column per role, before conversion.

    Attributes:
        columns: role -> column. The roles are `timestamp`, `price`, `quantity`, and optionally `trade_id`,
            `exchange`, `symbol`.
        lines: the 1-based physical line of each row, or its row number in a Parquet file.
        raw: gives the text of a row, for its index in these rows.
        broken: lines that are not rows, of schema `BROKEN_SCHEMA`.
    """

    columns: Mapping[str, pa.Array]
    lines: Int64s
    raw: Callable[[int], str]
    broken: pa.Table = field(default_factory=BROKEN_SCHEMA.empty_table)


@dataclass(frozen=True)
class ParsedBatch:
    """Trades of a file in the order of their lines, and rejected rows.

    Attributes:
        trades: of schema `TRADES_SCHEMA`. `trade_id` is null if the format has no ids.
        rejected: of schema `REJECTED_SCHEMA`. `timestamp` is null if the time is not valid.
        daily_ids: whether the format's ids are unique only within a UTC day.
    """

    trades: pa.Table
    rejected: pa.Table
    daily_ids: bool = False

    @property
    def unterminated_line(self) -> int | None:
        """The number of the last line of the file if it has no end of line, else None."""
        reasons = self.rejected["reason"]
        last = reasons[-1].as_py() if len(reasons) else None
        return int(self.rejected["line"][-1].as_py()) if last == UNTERMINATED_REASON else None


def parse_rows(rows: RawRows, market: Market, now: datetime) -> ParsedBatch:
    """Convert rows, and separate trades from rejected rows."""
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
    """The values of rows, with null for each value that has an error."""
    is_valid = pa.array([row not in part.errors for row in rows.tolist()], pa.bool_())
    return pc.if_else(is_valid, values, pa.scalar(None, values.type))


def _add_broken_rows(rejected: pa.Table, broken: pa.Table, market: Market) -> pa.Table:
    size = broken.num_rows
    if not size:
        return rejected
    broken_rows = pa.Table.from_arrays(
        [
            *broken.columns,
            pa.repeat(pa.scalar(market.exchange, pa.string()), size),
            pa.repeat(pa.scalar(market.symbol, pa.string()), size),
            pa.nulls(size, TIMESTAMP_TYPE),
        ],
        schema=REJECTED_SCHEMA,
    )
    return pa.concat_tables([rejected, broken_rows]).sort_by("line") if rejected.num_rows else broken_rows


def truncate_raw(text: str) -> str:
    """Cut the text of a rejected row to the length that is stored."""
    return text if len(text) <= MAX_RAW_TEXT else f"{text[:MAX_RAW_TEXT]}..."


def _as_texts(column: pa.Array) -> pa.Array:
    # Arrow writes a float as the shortest text that converts back to the same float. Integers and decimals
    # become their exact digits.
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

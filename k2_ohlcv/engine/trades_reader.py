"""Reads trades at a snapshot, from the project's table or an external table, in the same columns and types.

Invalid rows are counted in a column, and `reconcile` then refuses their windows. Converting external values
is in `external_values`. Windows are in `rollup`. Rows with impossible times are in `impossible_times`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.intervals import Interval, merge_to_at_most
from k2_ohlcv.engine.delete_support import explain_read_error, reject_unsupported_deletes
from k2_ohlcv.engine.external_values import convert_exactly
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.sql_terms import column_of, time_sql
from k2_ohlcv.frames.windows import INVALID_ROWS
from k2_ohlcv.lake.catalog import CATALOG
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.metadata.file_search import data_files_within
from k2_ohlcv.lake.schemas import PRICE, QUANTITY
from k2_ohlcv.lake.trade_columns import snapshot_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: The most intervals in a filter. Sail fails at 64 left-deep alternatives, so the filter is balanced too.
MAX_INTERVALS = 64
#: The most invalid rows in an error message.
_MAX_SAMPLE_ROWS = 5


@dataclass(frozen=True)
class TradesFrame:
    """The trades of some intervals at a snapshot, in the project's columns and types.

    Attributes:
        frame: exchange, symbol, trade_id (if `has_ids`), timestamp, price and quantity, and `INVALID_ROWS` if
            `is_checked`. Invalid rows have 1 there, and their values may be null.
        has_ids: whether trades have ids.
        is_checked: whether there may be invalid rows.
        engine: the session that reads them.
    """

    frame: "DataFrame"
    has_ids: bool
    is_checked: bool
    engine: Engine
    _trades: Table
    _snapshot: int

    def collect(self, frame: "DataFrame") -> "pa.Table":
        """Compute a frame that is derived from this one.

        Raises:
            TableSpecError: the engine cannot read files of the table.
        """
        try:
            return frame.toArrow()
        except Exception as error:
            explain_read_error(self.engine, self._trades, self._snapshot, error)
            raise

    def invalid_rows_error(self, intervals: Sequence[Interval]) -> TableSpecError:
        """Make the error that lists invalid rows of some intervals."""
        trades = self._trades
        assert isinstance(trades, ExternalTrades)
        fields = snapshot_columns(trades, self._snapshot)
        rows = convert_exactly(_read_between(self.engine, trades, self._snapshot, intervals), trades, fields)
        # Sort instead of filter: the optimizer would repeat each conversion step many times in a filter.
        first = rows.select(INVALID_ROWS, *(f"raw_{name}" for name in fields)).orderBy(
            INVALID_ROWS, ascending=False
        )
        samples = (
            "; ".join(f"{field.name}={row[f'raw_{name}']}" for name, field in fields.items())
            for row in first.limit(_MAX_SAMPLE_ROWS).toArrow().to_pylist()
            if row[INVALID_ROWS]
        )
        return TableSpecError(
            f"table {'.'.join(trades.name())} (K2_TRADES_TABLE) has trades that cannot be read exactly. Each "
            f"needs a value in every column, {trades.time_unit.value}, a positive price that fits {PRICE}, "
            f"and a positive quantity that fits {QUANTITY}; nothing is rounded. Correct or delete these "
            f"rows, and all rows with the same fault: [{'], ['.join(samples)}]"
        )


def read_trades(engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]) -> TradesFrame:
    """Read the trades of some intervals at a snapshot.

    Raises:
        TableSpecError: the snapshot has delete files that the engine does not support.
    """
    reject_unsupported_deletes(engine, trades, snapshot)
    rows = _read_between(engine, trades, snapshot, intervals)
    fields = snapshot_columns(trades, snapshot)
    if not isinstance(trades, ExternalTrades):
        frame = rows.select(*(column_of(field).alias(name) for name, field in fields.items()))
        is_checked = _may_have_invalid_rows(trades, snapshot, intervals)
        return TradesFrame(
            _mark_invalid_rows(frame) if is_checked else frame, True, is_checked, engine, trades, snapshot
        )
    frame = convert_exactly(rows, trades, fields).select(*fields, INVALID_ROWS)
    return TradesFrame(frame, "trade_id" in fields, True, engine, trades, snapshot)


def describe_invalid_rows(engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]) -> str:
    """Describe the trades of some intervals that cannot be read exactly."""
    ranges = merge_to_at_most(intervals, MAX_INTERVALS)
    return str(read_trades(engine, trades, snapshot, ranges).invalid_rows_error(ranges))


def _may_have_invalid_rows(trades: Table, snapshot: int, intervals: Sequence[Interval]) -> bool:
    """Whether the project's table may have a price or quantity that is not positive, from another writer.

    The column bounds of the files show this. Ingestion writes no such row, so rows usually need no check.
    """
    if not intervals:
        return False
    whole = Interval(min(i.start for i in intervals), max(i.end for i in intervals))
    return not all(_is_positive(trades, f.file) for f in data_files_within(trades, snapshot, [whole]))


def _is_positive(trades: Table, file: DataFile) -> bool:
    """Whether the column bounds of a data file prove that all prices and quantities are positive."""
    for name, kind in (("price", PRICE), ("quantity", QUANTITY)):
        lower = (file.lower_bounds or {}).get(trades.schema().find_field(name).field_id)
        if lower is None or Decimal(from_bytes(kind, lower)) <= 0:
            return False
    return True


def _mark_invalid_rows(rows: "DataFrame") -> "DataFrame":
    """Add `INVALID_ROWS`: 1 in rows whose price or quantity is not positive."""
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    is_valid = (F.col("price") > 0) & (F.col("quantity") > 0)
    return rows.withColumn(INVALID_ROWS, F.when(is_valid, 0).otherwise(1).cast("long"))


def read_rows(engine: Engine, trades: Table, snapshot: int) -> "DataFrame":
    """Read all rows of a table at a snapshot, with the column names of that snapshot's schema."""
    reader = engine.spark.read.format("iceberg").option("versionAsOf", str(snapshot))
    if engine.storage is not None:
        engine.storage.follow(trades.io.properties, trades.location())
        return reader.load(engine.metadata.folder_of(trades))
    return reader.load(".".join(f"`{part}`" for part in (CATALOG, *trades.name())))


def _read_between(engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]) -> "DataFrame":
    """Read the rows of some intervals. The filter uses the table's time column, so files are pruned.

    Rows with an impossible time or without a time are in no interval (see `impossible_times`).
    """
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    at, moment = time_sql(trades, snapshot)

    def tree(branch: Sequence[Interval]) -> str:
        if len(branch) == 1:
            return f"({at} >= {moment(branch[0].start)} AND {at} < {moment(branch[0].end)})"
        half = len(branch) // 2
        return f"({tree(branch[:half])} OR {tree(branch[half:])})"

    # One SQL text, because the client makes a request to the server for every literal.
    return read_rows(engine, trades, snapshot).where(F.expr(tree(intervals)))

"""Reads trades at a snapshot, from our own table or an external one, under our names and in our types.

How an external table's values become ours is in `external_values`. What is made of trades is in `rollup`.
Rows that do not fit are counted beside the others, and `reconcile` refuses their windows by name. Rows of
impossible times are in `has_only_impossible_times`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.engine.delete_support import explain_read_error, reject_unsupported_deletes
from k2_ohlcv.engine.external_values import INVALID_ROWS, convert_exactly
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.sql_terms import column_of, time_sql
from k2_ohlcv.lake.catalog import CATALOG
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv.lake.schemas import PRICE, QUANTITY
from k2_ohlcv.lake.trade_columns import snapshot_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: Rows that do not fit, as many as an error names.
_MAX_SAMPLE_ROWS = 5


@dataclass(frozen=True)
class TradesFrame:
    """The trades of some intervals at a snapshot, under our names and in our types.

    Attributes:
        frame: exchange, symbol, trade_id (if there are ids), timestamp, price and quantity; and
            `INVALID_ROWS` if
            is_checked: 1 in rows that do not fit, whose values may be null.
        has_ids: whether trades have ids.
        is_checked: whether there may be rows that do not fit.
    """

    frame: "DataFrame"
    has_ids: bool
    is_checked: bool
    _engine: Engine
    _trades: Table
    _snapshot: int

    def collect(self, frame: "DataFrame") -> "pa.Table":
        """What a frame made of this one gives.

        Raises:
            ContractError: the engine cannot read files of the table.
        """
        try:
            return frame.toArrow()
        except Exception as error:
            explain_read_error(self._engine, self._trades, self._snapshot, error)
            raise

    def invalid_rows_error(self, intervals: Sequence[Interval]) -> TableSpecError:
        """The error that names rows of some intervals which do not fit."""
        trades = self._trades
        assert isinstance(trades, ExternalTrades)
        theirs = snapshot_columns(trades, self._snapshot)
        rows = convert_exactly(_read_between(self._engine, trades, self._snapshot, intervals), trades, theirs)
        # Sorted to the front, not filtered: a filter pushed down through the steps repeats each many times.
        first = rows.select(INVALID_ROWS, *(f"raw_{name}" for name in theirs)).orderBy(
            INVALID_ROWS, ascending=False
        )
        named = (
            "; ".join(f"{field.name}={row[f'raw_{name}']}" for name, field in theirs.items())
            for row in first.limit(_MAX_SAMPLE_ROWS).toArrow().to_pylist()
            if row[INVALID_ROWS]
        )
        return TableSpecError(
            f"table {'.'.join(trades.name())} (K2_TRADES_TABLE) has trades that cannot be read exactly. Each "
            f"needs a value in every column, {trades.time_unit.value}, a positive price that "
            f"fits {PRICE}, and a "
            f"positive quantity that fits {QUANTITY}; nothing is rounded. Correct or "
            f"delete these, and all like them: [{'], ['.join(named)}]"
        )


def read_trades(engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]) -> TradesFrame:
    """The trades of some intervals as they were at a snapshot.

    Raises:
        ContractError: the snapshot has delete files that the engine cannot honour.
    """
    reject_unsupported_deletes(engine, trades, snapshot)
    rows = _read_between(engine, trades, snapshot, intervals)
    theirs = snapshot_columns(trades, snapshot)
    if not isinstance(trades, ExternalTrades):
        ours = rows.select(*(column_of(field).alias(name) for name, field in theirs.items()))
        checked = _may_have_invalid_rows(trades, snapshot, intervals)
        return TradesFrame(
            _mark_invalid_rows(ours) if checked else ours, True, checked, engine, trades, snapshot
        )
    frame = convert_exactly(rows, trades, theirs).select(*theirs, INVALID_ROWS)
    return TradesFrame(frame, "trade_id" in theirs, True, engine, trades, snapshot)


def _may_have_invalid_rows(trades: Table, snapshot: int, intervals: Sequence[Interval]) -> bool:
    """Whether our own table may hold a price or quantity that is not positive: another writer's.

    The bounds of its files say so. Ingestion writes no such row, so that nothing is checked row by row.
    """
    if not intervals:
        return False
    whole = Interval(min(i.start for i in intervals), max(i.end for i in intervals))
    near = (f.file for f in live_files(trades, snapshot) if f.span.intersect(whole))
    return not all(_is_positive(trades, file) for file in near if file.content == DataFileContent.DATA)


def _is_positive(trades: Table, file: DataFile) -> bool:
    """Whether the bounds of a data file say that all its prices and quantities are positive."""
    for name, kind in (("price", PRICE), ("quantity", QUANTITY)):
        lower = (file.lower_bounds or {}).get(trades.schema().find_field(name).field_id)
        if lower is None or Decimal(from_bytes(kind, lower)) <= 0:
            return False
    return True


def _mark_invalid_rows(rows: "DataFrame") -> "DataFrame":
    """Our own rows with `INVALID_ROWS`: 1 where the price or the quantity is not positive."""
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    fits = (F.col("price") > 0) & (F.col("quantity") > 0)
    return rows.withColumn(INVALID_ROWS, F.when(fits, 0).otherwise(1).cast("long"))


def read_rows(engine: Engine, trades: Table, snapshot: int) -> "DataFrame":
    """All rows of a table at a snapshot, under the names of that snapshot's schema."""
    reader = engine.spark.read.format("iceberg").option("versionAsOf", str(snapshot))
    if engine.storage is not None:
        engine.storage.follow(trades.io.properties, trades.location())
        return reader.load(engine.metadata.folder_of(trades))
    return reader.load(".".join(f"`{part}`" for part in (CATALOG, *trades.name())))


def _read_between(engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]) -> "DataFrame":
    """The rows of some intervals, by their own time column, so that files are pruned by its bounds.

    Rows of impossible times, or without any, are in no interval that may be asked for: see
    `has_only_impossible_times`.
    """
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    at, moment = time_sql(trades, snapshot)

    def tree(branch: Sequence[Interval]) -> str:
        if len(branch) == 1:
            return f"({at} >= {moment(branch[0].start)} AND {at} < {moment(branch[0].end)})"
        half = len(branch) // 2
        return f"({tree(branch[:half])} OR {tree(branch[half:])})"

    # As text, as the client asks the server about every single literal.
    return read_rows(engine, trades, snapshot).where(F.expr(tree(intervals)))

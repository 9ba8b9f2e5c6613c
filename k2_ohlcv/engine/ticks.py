"""Reads trades at a snapshot, from our own table or an external one, under our names and in our types.

How an external table's values become ours is in `external_values`. What is made of trades is in `rollup`.
Rows that do not fit are counted beside the others, and `reconcile` refuses their windows by name. Rows of
impossible times are in `outside`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import Table

from k2_ohlcv.domain.errors import ContractError
from k2_ohlcv.domain.window import Interval
from k2_ohlcv.engine.external_values import MISFITS, convert_exactly
from k2_ohlcv.engine.honour import explain, refuse_unhonoured
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.engine.sql_terms import column, time_terms
from k2_ohlcv.lake.catalog import CATALOG
from k2_ohlcv.lake.files import live_files
from k2_ohlcv.lake.foreign import ForeignTrades
from k2_ohlcv.lake.schemas import PRICE, QUANTITY
from k2_ohlcv.lake.trade_columns import columns_at

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

#: Rows that do not fit, as many as an error names.
_SHOWN = 5


@dataclass(frozen=True)
class Reading:
    """The trades of some intervals at a snapshot, under our names and in our types.

    Attributes:
        frame: exchange, symbol, trade_id (if there are ids), timestamp, price and quantity; and `MISFITS` if
            checked: 1 in rows that do not fit, whose values may be null.
        ids: whether trades have ids.
        checked: whether there may be rows that do not fit.
    """

    frame: "DataFrame"
    ids: bool
    checked: bool
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
            explain(self._engine, self._trades, self._snapshot, error)
            raise

    def refused(self, intervals: Sequence[Interval]) -> ContractError:
        """The error that names rows of some intervals which do not fit."""
        trades = self._trades
        assert isinstance(trades, ForeignTrades)
        theirs = columns_at(trades, self._snapshot)
        rows = convert_exactly(_between(self._engine, trades, self._snapshot, intervals), trades, theirs)
        # Sorted to the front, not filtered: a filter pushed down through the steps repeats each many times.
        first = rows.select(MISFITS, *(f"raw_{name}" for name in theirs)).orderBy(MISFITS, ascending=False)
        named = (
            "; ".join(f"{field.name}={row[f'raw_{name}']}" for name, field in theirs.items())
            for row in first.limit(_SHOWN).toArrow().to_pylist()
            if row[MISFITS]
        )
        return ContractError(
            f"table {'.'.join(trades.name())} (K2_TRADES_TABLE) has trades that cannot be read exactly. Each "
            f"needs a value in every column, {trades.clock.value}, a positive price that fits {PRICE}, and a "
            f"positive quantity that fits {QUANTITY}; nothing is rounded. Correct or "
            f"delete these, and all like them: [{'], ['.join(named)}]"
        )


def read_trades(engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]) -> Reading:
    """The trades of some intervals as they were at a snapshot.

    Raises:
        ContractError: the snapshot has delete files that the engine cannot honour.
    """
    refuse_unhonoured(engine, trades, snapshot)
    rows = _between(engine, trades, snapshot, intervals)
    theirs = columns_at(trades, snapshot)
    if not isinstance(trades, ForeignTrades):
        ours = rows.select(*(column(field).alias(name) for name, field in theirs.items()))
        checked = _may_be_unfit(trades, snapshot, intervals)
        return Reading(_marked(ours) if checked else ours, True, checked, engine, trades, snapshot)
    frame = convert_exactly(rows, trades, theirs).select(*theirs, MISFITS)
    return Reading(frame, "trade_id" in theirs, True, engine, trades, snapshot)


def _may_be_unfit(trades: Table, snapshot: int, intervals: Sequence[Interval]) -> bool:
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


def _marked(rows: "DataFrame") -> "DataFrame":
    """Our own rows with `MISFITS`: 1 where the price or the quantity is not positive."""
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    fits = (F.col("price") > 0) & (F.col("quantity") > 0)
    return rows.withColumn(MISFITS, F.when(fits, 0).otherwise(1).cast("long"))


def rows_of(engine: Engine, trades: Table, snapshot: int) -> "DataFrame":
    """All rows of a table at a snapshot, under the names of that snapshot's schema."""
    reader = engine.spark.read.format("iceberg").option("versionAsOf", str(snapshot))
    if engine.storage is not None:
        engine.storage.follow(trades.io.properties, trades.location())
        return reader.load(engine.metadata.folder_of(trades))
    return reader.load(".".join(f"`{part}`" for part in (CATALOG, *trades.name())))


def _between(engine: Engine, trades: Table, snapshot: int, intervals: Sequence[Interval]) -> "DataFrame":
    """The rows of some intervals, by their own time column, so that files are pruned by its bounds.

    Rows of impossible times, or without any, are in no interval that may be asked for: see `outside`.
    """
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    at, moment = time_terms(trades, snapshot)

    def tree(branch: Sequence[Interval]) -> str:
        if len(branch) == 1:
            return f"({at} >= {moment(branch[0].start)} AND {at} < {moment(branch[0].end)})"
        half = len(branch) // 2
        return f"({tree(branch[:half])} OR {tree(branch[half:])})"

    # As text, as the client asks the server about every single literal.
    return rows_of(engine, trades, snapshot).where(F.expr(tree(intervals)))

"""Reading trades at a snapshot: whoever's table it is, under our names and in our types, exactly.

What is made of them is in `rollup`. Nothing here rounds. Rows that do not fit are counted beside the others,
and whoever computes refuses them by name. Rows of impossible times are in `outside`.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from pyiceberg.conversions import from_bytes
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import Table
from pyiceberg.types import DecimalType, DoubleType, IcebergType, NestedField

from k2_ohlcv.domain.errors import ContractError
from k2_ohlcv.domain.timeframe import Grain
from k2_ohlcv.domain.window import Interval, to_micros
from k2_ohlcv.engine.honour import explain, refuse_unhonoured
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake.catalog import CATALOG
from k2_ohlcv.lake.files import TIME, live_files
from k2_ohlcv.lake.foreign import Clock, ForeignTrades
from k2_ohlcv.lake.schemas import PRICE, QUANTITY
from k2_ohlcv.lake.trade_columns import columns_at

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

#: The column that counts rows which do not fit, in trades and in windows made of them.
MISFITS = "misfits"
#: Rows that do not fit, as many as an error names.
_SHOWN = 5
#: Doubles are 2^-26 apart from here on, more than 10^-8: several numbers of eight places read as one.
_COARSE = 2.0**26
_TEXTS = ("exchange", "symbol", "trade_id")


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
        rows = _exact(_between(self._engine, trades, self._snapshot, intervals), trades, theirs)
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
    frame = _exact(rows, trades, theirs).select(*theirs, MISFITS)
    return Reading(frame, "trade_id" in theirs, True, engine, trades, snapshot)


def _may_be_unfit(trades: Table, snapshot: int, intervals: Sequence[Interval]) -> bool:
    """Whether our own table may hold a price or quantity that is not positive: another writer's.

    The bounds of its files say so. Ingestion writes no such row, so that nothing is checked row by row.
    """
    if not intervals:
        return False
    whole = Interval(min(i.start for i in intervals), max(i.end for i in intervals))
    near = (f.file for f in live_files(trades, TIME, Grain.DAY, snapshot) if f.span.intersect(whole))
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
    if engine.embedded:
        return reader.load(_private_folder(engine.workspace, trades))
    return reader.load(".".join(f"`{part}`" for part in (CATALOG, *trades.name())))


def _private_folder(workspace: Path, table: Table) -> str:
    """A folder that holds only the table's current metadata file, and so leads Sail to no other.

    Sail takes the newest metadata that it finds by listing the table's folder, and a writer that lost a race
    leaves an orphan there. All that the file names, it names by absolute location.
    """
    scheme, _, path = PyArrowFileIO.parse_location(table.metadata_location)
    if scheme != "file":
        return table.location()
    source = Path(path)  # as PyIceberg wrote it: what looks escaped in it is not
    folder = workspace / f"{table.metadata.table_uuid}-{source.name.removesuffix('.metadata.json')}"
    target = folder / "metadata" / source.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return str(folder)


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


def clock_of(trades: Table) -> Clock:
    """How the time column of a trades table counts."""
    return trades.clock if isinstance(trades, ForeignTrades) else Clock.ZONED


def time_terms(trades: Table, snapshot: int) -> tuple[str, Callable[[datetime], str]]:
    """The time column of a snapshot in SQL, and how moments are written to compare with it.

    Spark plans files by the current schema's column of that name. Where that is another one, or none, the
    column stands inside an expression: nothing is planned by it then, and all files are read.
    """
    field, clock = columns_at(trades, snapshot)["timestamp"], clock_of(trades)
    name = quoted(field)
    if any(now.name == field.name and now.field_id == field.field_id for now in trades.schema().fields):
        return name, _literal(clock)
    if clock in {Clock.ZONED, Clock.LOCAL}:
        name, clock = f"unix_micros(CAST({name} AS TIMESTAMP))", Clock.MICROS
    # Of a bare comparison Spark infers that the column is not null, and plans by that.
    return f"coalesce({name}, {-(2**63) + 1}L)", _literal(clock)


def _literal(clock: Clock) -> Callable[[datetime], str]:
    """Moments as SQL literals of a time column's own type."""
    match clock:
        case Clock.ZONED:
            return lambda moment: f"TIMESTAMP '{moment.isoformat(' ')}'"
        case Clock.LOCAL:
            return lambda moment: f"TIMESTAMP_NTZ '{moment.replace(tzinfo=None).isoformat(' ')}'"
        case Clock.MILLIS:
            return lambda moment: f"{-(-to_micros(moment) // 1000)}L"
        case Clock.MICROS:
            return lambda moment: f"{to_micros(moment)}L"


def quoted(field: NestedField) -> str:
    """The name of a column in SQL: any text will do as a name."""
    return f"`{field.name.replace('`', '``')}`"


def column(field: NestedField) -> "Column":
    """A column by its name."""
    from pyspark.sql import functions as F  # noqa: N812

    return F.col(quoted(field))


def _exact(rows: "DataFrame", trades: ForeignTrades, theirs: Mapping[str, NestedField]) -> "DataFrame":
    """Foreign rows under our names and in our types, with `MISFITS`, and as they were as `raw_<our name>`."""
    from pyspark.sql import functions as F  # noqa: N812

    raw = {name: F.col(f"raw_{name}") for name in theirs}
    frame = rows.select(*(column(field).alias(f"raw_{name}") for name, field in theirs.items()))
    for name, target in (("price", PRICE), ("quantity", QUANTITY)):
        frame = exactly(frame, name, theirs[name].field_type, target)
    texts = {name: raw[name].cast("string") for name in theirs if name in _TEXTS}
    fits = [F.coalesce(F.col(name) > 0, F.lit(False)) for name in ("price", "quantity")]
    fits += [raw[name].isNotNull() for name in texts if not theirs[name].required]
    return frame.withColumns(
        {
            **texts,
            "timestamp": _timestamp(raw["timestamp"], trades.clock),
            MISFITS: F.when(reduce(lambda a, b: a & b, fits), 0).otherwise(1).cast("long"),
        }
    )


def _timestamp(at: "Column", clock: Clock) -> "Column":
    from pyspark.sql import functions as F  # noqa: N812

    match clock:
        case Clock.ZONED:
            return at
        case Clock.LOCAL:
            return at.cast("timestamp")  # the session is in UTC
        case Clock.MILLIS:
            return F.timestamp_micros(at * F.lit(1000).cast("long"))
        case Clock.MICROS:
            return F.timestamp_micros(at)


def exactly(frame: "DataFrame", name: str, kind: IcebergType, target: DecimalType) -> "DataFrame":
    """Add a column: `raw_` itself as decimals of the target, exactly; null where it does not fit.

    Args:
        frame: with the column `raw_<name>`.
        name: the column to add.
        kind: the type of the raw column, a decimal or double. Of doubles only positive ones are taken.
        target: the type of the new one.
    """
    from pyspark.sql import functions as F  # noqa: N812

    raw, sql = F.col(f"raw_{name}"), f"decimal({target.precision},{target.scale})"
    if isinstance(kind, DoubleType):
        return _of_double(frame, name, target)
    assert isinstance(kind, DecimalType)
    if kind.scale <= target.scale and kind.precision - kind.scale <= target.precision - target.scale:
        return frame.withColumn(name, raw.cast(sql))
    near = raw.try_cast(sql)
    back = near.try_cast(f"decimal({kind.precision},{kind.scale})")
    return frame.withColumn(name, F.when(back == raw, near))


def _of_double(frame: "DataFrame", name: str, target: DecimalType) -> "DataFrame":
    """Positive doubles as the decimals that their shortest texts say; null where that has more than 8 places.

    By arithmetic, as the texts themselves differ: Sail casts no text with an exponent, and Java before 19
    writes some doubles with more digits than needed. Below 2^26 at most one number of eight places reads as a
    given double: the nearest one, if dividing it out (which rounds correctly) gives the double back. Above,
    it is the nearest number of 15 digits, else of 16, else of 17, that does; the arithmetic is exact there.

    Step by step in columns of their own: one expression would hold each step many times over.
    """
    from pyspark.sql import functions as F  # noqa: N812

    raw = F.col(f"raw_{name}")
    value, whole, rest, unit = (F.col(f"{name}_{part}") for part in ("value", "whole", "rest", "unit"))
    limit = float(10 ** (target.precision - target.scale))
    frame = frame.withColumn(f"{name}_value", F.when((raw > F.lit(0.0)) & (raw < F.lit(limit)), raw))
    frame = frame.withColumn(f"{name}_whole", F.floor(value))
    fewest = F.when((value < F.lit(_COARSE)) | (value >= F.lit(1e11)), F.lit(1e8))
    for size, places in ((1e8, 1e7), (1e9, 1e6), (1e10, 1e5), (1e11, 1e4)):
        fewest = fewest.when(value < F.lit(size), F.lit(places))
    frame = frame.withColumns({f"{name}_rest": value - whole.cast("double"), f"{name}_unit": fewest})
    units = [F.least(unit * F.lit(more), F.lit(1e8)) for more in (1.0, 10.0, 100.0)]
    scaled, above, found = (
        [F.col(f"{name}_{part}{i}") for i in range(len(units))] for part in ("scaled", "above", "found")
    )
    frame = frame.withColumns({f"{name}_scaled{i}": rest * unit for i, unit in enumerate(units)})
    frame = frame.withColumns({f"{name}_above{i}": F.floor(s + F.lit(0.5)) for i, s in enumerate(scaled)})
    # Half to even, as texts are made; Sail's rint is half up.
    tie = [(up.cast("double") - s == F.lit(0.5)) & (up % 2 == 1) for up, s in zip(above, scaled, strict=True)]
    nearest = {f"{name}_found{i}": F.when(tie[i], up - 1).otherwise(up) for i, up in enumerate(above)}
    frame = frame.withColumns(nearest)

    def decimal(count: "Column", unit: "Column") -> "Column":
        eighths = (count * (F.lit(1e8) / unit).cast("long")).cast("decimal(10,0)")
        exact = whole.cast("decimal(11,0)") + eighths * F.lit(Decimal("0.00000001"))
        return exact.try_cast(f"decimal({target.precision},{target.scale})")

    fine = (whole.cast("double") * F.lit(1e8) + found[0].cast("double")) / F.lit(1e8) == value
    coarse = [whole.cast("double") + k.cast("double") / u == value for k, u in zip(found, units, strict=True)]
    rules = [(value < F.lit(_COARSE)) & fine, *((value >= F.lit(_COARSE)) & rule for rule in coarse)]
    cases = zip(rules, (found[0], *found), (units[0], *units), strict=True)
    return frame.withColumn(name, F.coalesce(*(F.when(rule, decimal(k, u)) for rule, k, u in cases)))

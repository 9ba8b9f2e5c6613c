"""Reading trades at a snapshot: whoever's table it is, under our names and in our types, exactly.

What is made of them is in `rollup`. Nothing here rounds, and nothing is left out: rows that do not fit are
counted beside the others, and whoever computes refuses them by name.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table
from pyiceberg.types import DecimalType, DoubleType, IcebergType, NestedField

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import ContractError
from k2_ohlcv.domain.window import Interval, to_micros
from k2_ohlcv.engine.honour import explain, refuse_unhonoured
from k2_ohlcv.lake.catalog import CATALOG
from k2_ohlcv.lake.foreign import Clock, ForeignTrades, TimeColumn, time_column
from k2_ohlcv.lake.schemas import PRICE, QUANTITY

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

    from k2_ohlcv.engine.session import Engine

#: The column that counts rows which do not fit, in trades and in windows made of them.
MISFITS = "misfits"
#: Rows that do not fit, as many as an error names.
_SHOWN = 5
#: Doubles are 2^-26 apart from here on, more than 10^-8: several numbers of eight places read as one.
_COARSE = 2.0**26
_TEXTS = ("exchange", "symbol", "trade_id")
_NAMES = tuple(column.name for column in fields(Trade))


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
    _engine: "Engine"
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
        """The error that names rows of some intervals which do not fit, or which have no time at all."""
        trades = self._trades
        assert isinstance(trades, ForeignTrades)
        rows = _exact(_between(self._engine, trades, self._snapshot, intervals), trades)
        theirs = {name: field for name in _NAMES if (field := trades.field(name))}
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
            f"positive quantity that fits {QUANTITY}; nothing is rounded, and nothing was committed. Correct "
            f"or delete these, and all like them: [{'], ['.join(named)}]"
        )


def read_trades(engine: "Engine", trades: Table, snapshot: int, intervals: Sequence[Interval]) -> Reading:
    """The trades of some intervals as they were at a snapshot.

    Raises:
        ContractError: the snapshot has delete files that the engine cannot honour.
    """
    refuse_unhonoured(engine, trades, snapshot)
    rows = _between(engine, trades, snapshot, intervals)
    if not isinstance(trades, ForeignTrades):
        return Reading(rows, True, False, engine, trades, snapshot)
    names = [name for name in _NAMES if trades.field(name)]
    frame = _exact(rows, trades).select(*names, MISFITS)
    return Reading(frame, "trade_id" in names, True, engine, trades, snapshot)


def _read(engine: "Engine", trades: Table, snapshot: int) -> "DataFrame":
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


def _between(engine: "Engine", trades: Table, snapshot: int, intervals: Sequence[Interval]) -> "DataFrame":
    """The rows of some intervals, by their own time column, so that files are pruned by its bounds.

    And those of which the time cannot be told: rows in no interval at all would be left out unseen.
    """
    from pyspark.sql import functions as F  # noqa: N812 - its name everywhere

    time = time_column(trades, "timestamp")
    at, moment = _name(time.field), _literal(time)

    def tree(branch: Sequence[Interval]) -> str:
        if len(branch) == 1:
            return f"({at} >= {moment(branch[0].start)} AND {at} < {moment(branch[0].end)})"
        half = len(branch) // 2
        return f"({tree(branch[:half])} OR {tree(branch[half:])})"

    # As text, as the client asks the server about every single literal.
    wanted, lost = F.expr(tree(intervals)), _timeless(time, F.col(at))
    return _read(engine, trades, snapshot).where(wanted if lost is None else wanted | lost)


def _literal(time: TimeColumn) -> Callable[[datetime], str]:
    """Moments as SQL literals of a time column's own type."""
    match time.clock:
        case Clock.ZONED:
            return lambda moment: f"TIMESTAMP '{moment.isoformat(' ')}'"
        case Clock.LOCAL:
            return lambda moment: f"TIMESTAMP_NTZ '{moment.replace(tzinfo=None).isoformat(' ')}'"
        case Clock.MILLIS:
            return lambda moment: f"{-(-to_micros(moment) // 1000)}L"
        case Clock.MICROS:
            return lambda moment: f"{to_micros(moment)}L"


def _timeless(time: TimeColumn, at: "Column") -> "Column | None":
    """Which rows have a time that is in no window, or in the wrong one; None where there can be none."""
    from pyspark.sql import functions as F  # noqa: N812

    values = time.clock.magnitudes
    rules = [] if time.field.required else [at.isNull()]
    if values:
        rules += [at < F.lit(values.start).cast("long"), at >= F.lit(values.stop).cast("long")]
    return reduce(lambda a, b: a | b, rules) if rules else None


def _name(field: NestedField) -> str:
    return f"`{field.name.replace('`', '``')}`"


def _exact(rows: "DataFrame", trades: ForeignTrades) -> "DataFrame":
    """Foreign rows under our names and in our types, with `MISFITS`, and as they were as `raw_<our name>`."""
    from pyspark.sql import functions as F  # noqa: N812

    fields = {name: field for name in _NAMES if (field := trades.field(name))}
    raw = {name: F.col(f"raw_{name}") for name in fields}
    frame = rows.select(*(F.col(_name(field)).alias(f"raw_{name}") for name, field in fields.items()))
    for name, target in (("price", PRICE), ("quantity", QUANTITY)):
        frame = exactly(frame, name, fields[name].field_type, target)
    texts = {name: raw[name].cast("string") for name in fields if name in _TEXTS}
    fits = [F.coalesce(F.col(name) > 0, F.lit(False)) for name in ("price", "quantity")]
    fits += [raw[name].isNotNull() for name in texts if not fields[name].required]
    lost = _timeless(time_column(trades, "timestamp"), raw["timestamp"])
    at = _timestamp(raw["timestamp"], trades.clock)
    if lost is not None:
        fits.append(~lost)
        at = F.when(~lost, at)  # in no window, rather than in one that nobody asked for
    return frame.withColumns(
        {
            **texts,
            "timestamp": at,
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

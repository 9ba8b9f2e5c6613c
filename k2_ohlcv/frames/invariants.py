"""The candle schema and the row invariants of candles, checked before every commit.

The asset checks test stored candles for the same invariants, in `frames.checks`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import polars as pl

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.errors import InvariantError
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES, REFUSED_TYPES, format_rows

if TYPE_CHECKING:
    from pandera.polars import DataFrameSchema, PolarsData

#: Names of pandera's own rules, with the names of the checks in this project.
_CHECK_BY_RULE = {"multiple_fields_uniqueness": "unique_windows", "not_nullable": "positive_metrics"}


def row_invariants(timeframe: Timeframe) -> Mapping[str, pl.Expr]:
    """Return the invariants of a candle row, by check name. Each expression is true or false, never null."""
    open_, high, low, close, vwap = (
        pl.col(name) for name in ("open_price", "high_price", "low_price", "close_price", "vwap")
    )
    start, end = pl.col("window_start"), pl.col("window_end")
    rules = {
        "price_relationships": (high >= open_)
        & (high >= close)
        & (high >= low)
        & (low <= open_)
        & (low <= close)
        & (low > 0),
        "vwap_bounds": (low <= vwap) & (vwap <= high),
        "positive_metrics": (pl.col("volume") > 0)
        & (pl.col("trade_count") >= 1)
        & pl.all_horizontal(pl.col(name).is_not_null() for name in CANDLE_TYPES),
        "window_alignment": (end - start == timeframe.length)
        & (start.dt.epoch("us") % timeframe.micros == 0)
        & (pl.col("window_date") == start.dt.date()),
    }
    return {name: rule.fill_null(False) for name, rule in rules.items()}  # null is a failure


def find_broken_windows(frame: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    """Find the candles that break an invariant.

    Returns:
        One row per candle with its first failed check, in the columns of `REFUSED_TYPES`.
    """
    first = pl.coalesce(
        *(pl.when(~rule).then(pl.lit(name)) for name, rule in row_invariants(timeframe).items()), pl.lit(None)
    )
    broken = frame.with_columns(first.alias("check")).filter(pl.col("check").is_not_null())
    return broken.select(*REFUSED_TYPES).cast(pl.Schema(REFUSED_TYPES))


def candle_schema(timeframe: Timeframe) -> "DataFrameSchema":
    """Build the pandera schema of a timeframe's candles: columns in order, types, keys and invariants."""
    import pandera.polars as pandera

    def check(name: str, rule: pl.Expr) -> "pandera.Check":
        select: Callable[[PolarsData], pl.LazyFrame] = lambda data: data.lazyframe.select(rule)  # noqa: E731
        return pandera.Check(select, name=name, error=name)

    return pandera.DataFrameSchema(
        {name: pandera.Column(kind, nullable=False) for name, kind in CANDLE_TYPES.items()},
        checks=[check(name, rule) for name, rule in row_invariants(timeframe).items()],
        unique=list(KEY_COLUMNS),
        strict=True,
        ordered=True,
        name=timeframe.table,
    )


def _is_valid(frame: pl.DataFrame, timeframe: Timeframe) -> bool:
    """Whether a frame passes `candle_schema`. pandera takes 70 ms for one row, and explains each failure."""
    if frame.schema != pl.Schema(CANDLE_TYPES):
        return False
    is_valid = pl.all_horizontal(row_invariants(timeframe).values()).all()
    return bool(frame.select(is_valid).item()) and not frame.select(KEY_COLUMNS).is_duplicated().any()


def check_invariants(frame: pl.DataFrame, timeframe: Timeframe) -> None:
    """Check a frame of candles before its commit.

    Raises:
        InvariantError: the frame does not have the candle schema, or breaks an invariant. The message names
            the failed checks and shows the rows.
    """
    from pandera.errors import SchemaErrors

    if frame.is_empty() or _is_valid(frame, timeframe):
        return
    try:
        candle_schema(timeframe).validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
        rule_counts = dict(cases.group_by("check").len().sort("check").iter_rows())
        failed = {_CHECK_BY_RULE.get(str(rule), str(rule)): int(count) for rule, count in rule_counts.items()}
        rows = cases["index"].drop_nulls().unique().sort().to_list()
        raise InvariantError(
            f"{len(rows) or 'some'} candles for {timeframe.table} break {', '.join(map(str, failed))}; "
            f"nothing is committed\n{format_rows(frame[rows] if rows else frame)}",
            failed,
        ) from None

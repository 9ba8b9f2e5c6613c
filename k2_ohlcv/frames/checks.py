"""The checks of stored candles, as pure functions of frames.

Row checks use `invariants.row_invariants`, as commits do. Reading tables and trades is in
`operations.validate`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.domain.types import VOLUME
from k2_ohlcv.frames.candles import MAX_SAMPLE_ROWS, partition_start_of
from k2_ohlcv.frames.invariants import row_invariants

#: Candle columns that a second, independent aggregation of the trades computes.
TOTAL_COLUMNS = ("trade_count", "volume", "high_price", "low_price")


@dataclass(frozen=True)
class Finding:
    """The result of one check of one table.

    Attributes:
        check: the name of the check.
        timeframe: the timeframe of the table.
        examined: the number of examined windows (or trades).
        failures: the number of windows (or trades) that fail.
        partitions: keys of the partitions with failures.
        rows: up to `MAX_SAMPLE_ROWS` failed rows. Comparisons show the values of both sides.
        note: further facts for people.
        numbers: further measurements, by name.
    """

    check: str
    timeframe: str
    examined: int
    failures: int = 0
    partitions: tuple[str, ...] = ()
    rows: pl.DataFrame | None = None
    note: str = ""
    numbers: tuple[tuple[str, float], ...] = ()

    @property
    def is_ok(self) -> bool:
        """Whether the check passed."""
        return self.failures == 0

    def as_json(self) -> dict[str, object]:
        """Return the finding as one JSON object."""
        return {
            "check": self.check,
            "timeframe": self.timeframe,
            "ok": self.is_ok,
            "failures": self.failures,
            "partitions": list(self.partitions),
        }


def partition_key(column: str, timeframe: Timeframe) -> pl.Expr:
    """Return an expression: the key of the partition that contains a window start."""
    return partition_start_of(column, timeframe).dt.strftime("%Y-%m-%d")


def check_rows(stored: pl.DataFrame, timeframe: Timeframe) -> list[Finding]:
    """Run the five checks that need the stored rows alone.

    Args:
        stored: candle rows. The column `partition` has the key of the partition that stores the row.
        timeframe: the timeframe of the candles.
    """
    rules = dict(row_invariants(timeframe))
    rules["window_alignment"] &= pl.col("partition") == partition_key("window_start", timeframe)
    rules["unique_windows"] = ~pl.struct(KEY_COLUMNS).is_duplicated()
    return [
        _build_finding(name, timeframe, stored.height, stored.filter(~rule.fill_null(False)))  # null fails
        for name, rule in rules.items()
    ]


def check_totals(stored: pl.DataFrame, totals: pl.DataFrame, timeframe: Timeframe) -> Finding:
    """Compare stored candles with totals of the trades.

    Args:
        stored: candle rows with the column `partition`.
        totals: `KEY_COLUMNS` and `TOTAL_COLUMNS` of each window, from the trades.
        timeframe: the timeframe of the candles.
    """
    return _compare_rows("reconciles_with_trades", timeframe, stored, {"trades": totals}, TOTAL_COLUMNS)


def uncompared_finding(check: str, timeframe: Timeframe, *, pending: int, behind: int) -> Finding:
    """Count the windows that a comparison left out. The result is merged with the findings of the check.

    Args:
        check: the name of the check.
        timeframe: the timeframe of the table.
        pending: the number of windows that are dirty since the watermark.
        behind: the number of windows before `frozen_before` or `expired_before`.
    """
    notes = [
        f"{pending:,} windows are dirty since the watermark and were not compared" if pending else "",
        f"{behind:,} windows are before frozen_before or expired_before and were not compared"
        if behind
        else "",
    ]
    return Finding(
        check,
        timeframe.name,
        0,
        note="; ".join(filter(None, notes)),
        numbers=(("pending_windows", float(pending)), ("windows_behind", float(behind))),
    )


def roll_up_minutes(minutes: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    """Roll up stored 1m candles, to compare them with the candles of a longer timeframe."""
    start = pl.col("window_start").dt.truncate(f"{timeframe.length // timedelta(minutes=1)}m")
    ordered = minutes.sort("window_start").with_columns(start.alias("window_start"))
    return ordered.group_by(KEY_COLUMNS).agg(
        pl.col("trade_count").sum(),
        pl.col("volume").sum().cast(pl.Decimal(*VOLUME)),
        pl.col("high_price").max(),
        pl.col("low_price").min(),
        pl.col("open_price").first(),
        pl.col("close_price").last(),
    )


def check_rollup(stored: pl.DataFrame, rolled: pl.DataFrame, timeframe: Timeframe) -> Finding:
    """Compare stored candles with the roll-up of stored 1m candles.

    Args:
        stored: candle rows with the column `partition`.
        rolled: the roll-up of the 1m candles of the same span, from `roll_up_minutes`.
        timeframe: the timeframe of `stored`.
    """
    columns = (*TOTAL_COLUMNS, "open_price", "close_price")
    return _compare_rows("timeframes_agree", timeframe, stored, {"1m": rolled}, columns)


def merge_findings(findings: Iterable[Finding]) -> Finding:
    """Merge the findings of one check over several parts of a table."""
    parts = list(findings)
    first = parts[0]
    rows = [p.rows for p in parts if p.rows is not None and p.rows.height]
    numbers: dict[str, float] = {}
    for part in parts:
        for name, number in part.numbers:
            numbers[name] = numbers.get(name, 0.0) + number
    return Finding(
        first.check,
        first.timeframe,
        sum(p.examined for p in parts),
        sum(p.failures for p in parts),
        tuple(sorted({key for p in parts for key in p.partitions})),
        pl.concat(rows).head(MAX_SAMPLE_ROWS) if rows else None,
        "; ".join(dict.fromkeys(p.note for p in parts if p.note)),
        tuple(numbers.items()),
    )


def _compare_rows(
    check: str,
    timeframe: Timeframe,
    stored: pl.DataFrame,
    against: Mapping[str, pl.DataFrame],
    columns: Sequence[str],
) -> Finding:
    """Compare the columns of stored rows with expected rows, which are given by their name in samples."""
    ((name, expected),) = against.items()
    joined = stored.select(*KEY_COLUMNS, *columns, pl.lit(True).alias("stored")).join(
        expected.select(*KEY_COLUMNS, *columns, pl.lit(True).alias("expected")),
        on=KEY_COLUMNS,
        how="full",
        suffix=f"_{name}",
        coalesce=True,
    )
    is_equal = pl.all_horizontal(pl.col(c).eq_missing(pl.col(f"{c}_{name}")) for c in columns)
    is_in_both = pl.col("stored").is_not_null() & pl.col("expected").is_not_null()
    broken = joined.filter(~(is_equal & is_in_both)).drop("stored", "expected").sort(*KEY_COLUMNS)
    return _build_finding(check, timeframe, joined.height, broken)


def _build_finding(check: str, timeframe: Timeframe, examined: int, broken: pl.DataFrame) -> Finding:
    if broken.is_empty():
        return Finding(check, timeframe.name, examined)
    keys = broken.select(partition_key("window_start", timeframe)).to_series()
    stored = broken["partition"] if "partition" in broken.columns else keys
    partitions = pl.concat([keys, stored]).drop_nulls().unique().sort().to_list()
    return Finding(
        check,
        timeframe.name,
        examined,
        broken.height,
        tuple(partitions),
        broken.head(MAX_SAMPLE_ROWS),
    )

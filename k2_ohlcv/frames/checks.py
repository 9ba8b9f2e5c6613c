"""What must hold of stored candles, and what breaks it: pure functions of frames.

The row rules are those of the gate (`invariants.row_invariants`), held here against what is stored. Reading
tables and recomputing from trades is in `validate`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from k2_ohlcv.domain.candle import KEY_COLUMNS
from k2_ohlcv.domain.timeframe import Grain, Timeframe
from k2_ohlcv.domain.types import VOLUME
from k2_ohlcv.frames.candles import MAX_SAMPLE_ROWS
from k2_ohlcv.frames.invariants import row_invariants


@dataclass(frozen=True)
class Check:
    """One check of every candle table.

    Attributes:
        name: its name.
        rule: what must be true.
        is_blocking: whether its failure stops what follows.
        whole: whether it says the same whatever windows are examined.
    """

    name: str
    rule: str
    is_blocking: bool = True
    whole: bool = False


CHECKS: tuple[Check, ...] = (
    Check(
        "price_relationships", "high is at least, and low at most, every other price; all prices are positive"
    ),
    Check("vwap_bounds", "vwap lies between low and high"),
    Check("positive_metrics", "volume is positive, there is at least one trade, and nothing is null"),
    Check(
        "window_alignment",
        "windows have the timeframe's length, lie on its grid, under their UTC date and in their partition",
    ),
    Check("unique_windows", "one row per exchange, symbol and window start"),
    Check(
        "reconciles_with_trades",
        "count, volume, high and low of each window are those of the trades, and neither side lacks one",
    ),
    Check("timeframes_agree", "the table is the roll-up of 1m over the same span", is_blocking=False),
    Check("gaps", "informs: spans without a candle, and why", is_blocking=False),
    Check(
        "freshness",
        "the table is inside its freshness policy, by its own watermark",
        is_blocking=False,
        whole=True,
    ),
    Check(
        "trade_times",
        "every trade has a time from 2009-01-01 to the end of tomorrow, UTC; others are in no candle",
        is_blocking=False,
        whole=True,
    ),
)

#: What trades and candles must agree in, per window.
TOTAL_COLUMNS = ("trade_count", "volume", "high_price", "low_price")


@dataclass(frozen=True)
class Finding:
    """What one check found in one table.

    Attributes:
        check: the check's name.
        timeframe: the table's timeframe.
        examined: windows (or trades) looked at.
        failures: windows (or trades) that fail.
        partitions: keys of the partitions in which they are.
        rows: up to `MAX_SAMPLE_ROWS` of them; for comparisons with both sides.
        note: what people should know besides.
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
        """Whether nothing fails."""
        return self.failures == 0

    def as_json(self) -> dict[str, object]:
        """The finding as one JSON object."""
        return {
            "check": self.check,
            "timeframe": self.timeframe,
            "ok": self.is_ok,
            "failures": self.failures,
            "partitions": list(self.partitions),
        }


def partition_key(column: str, timeframe: Timeframe) -> pl.Expr:
    """The key of the partition that a window start belongs to."""
    start = pl.col(column).dt.truncate("1d" if timeframe.grain is Grain.DAY else "1mo")
    return start.dt.strftime("%Y-%m-%d")


def check_rows(stored: pl.DataFrame, timeframe: Timeframe) -> list[Finding]:
    """The findings of the five checks that look at rows alone.

    Args:
        stored: candle rows, with the key of the partition that each is stored in as `partition`.
        timeframe: what they are candles of.
    """
    rules = dict(row_invariants(timeframe))
    rules["window_alignment"] &= pl.col("partition") == partition_key("window_start", timeframe)
    rules["unique_windows"] = ~pl.struct(KEY_COLUMNS).is_duplicated()
    return [
        _build_finding(name, timeframe, stored.height, stored.filter(~rule.fill_null(False)))  # null fails
        for name, rule in rules.items()
    ]


def check_totals(stored: pl.DataFrame, totals: pl.DataFrame, timeframe: Timeframe) -> Finding:
    """Whether stored candles have the totals of the trades.

    Args:
        stored: candle rows with `partition`.
        totals: `KEY_COLUMNS` and `TOTAL_COLUMNS` per window, from the trades.
        timeframe: what they are candles of.
    """
    return _compare_rows("reconciles_with_trades", timeframe, stored, {"trades": totals}, TOTAL_COLUMNS)


def uncompared_finding(check: str, timeframe: Timeframe, *, pending: int, behind: int) -> Finding:
    """What a comparison did not look at, to be merged with what it found.

    Args:
        check: the comparison.
        timeframe: the table.
        pending: windows that are dirty since the watermark.
        behind: windows behind the line of frozen trades or of expired candles.
    """
    notes = [
        f"{pending:,} windows are dirty since the watermark and were left out" if pending else "",
        f"{behind:,} windows are behind the lines of retention and were left out" if behind else "",
    ]
    return Finding(
        check,
        timeframe.name,
        0,
        note="; ".join(filter(None, notes)),
        numbers=(("pending_windows", float(pending)), ("windows_behind", float(behind))),
    )


def check_rollup(stored: pl.DataFrame, minutes: pl.DataFrame, timeframe: Timeframe) -> Finding:
    """Whether stored candles are the roll-up of stored 1m candles of the same span.

    Args:
        stored: candle rows with `partition`.
        minutes: rows of the 1m table of that span.
        timeframe: what `stored` are candles of.
    """
    start = pl.col("window_start").dt.truncate(f"{timeframe.length // timedelta(minutes=1)}m")
    ordered = minutes.sort("window_start").with_columns(start.alias("window_start"))
    rolled = ordered.group_by(KEY_COLUMNS).agg(
        pl.col("trade_count").sum(),
        pl.col("volume").sum().cast(pl.Decimal(*VOLUME)),
        pl.col("high_price").max(),
        pl.col("low_price").min(),
        pl.col("open_price").first(),
        pl.col("close_price").last(),
    )
    columns = (*TOTAL_COLUMNS, "open_price", "close_price")
    return _compare_rows("timeframes_agree", timeframe, stored, {"1m": rolled}, columns)


def merge_findings(findings: Iterable[Finding]) -> Finding:
    """The findings of one check over several parts of a table, as one."""
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
    ((other, wanted),) = against.items()
    both = stored.select(*KEY_COLUMNS, *columns, pl.lit(True).alias("stored")).join(
        wanted.select(*KEY_COLUMNS, *columns, pl.lit(True).alias("wanted")),
        on=KEY_COLUMNS,
        how="full",
        suffix=f"_{other}",
        coalesce=True,
    )
    same = pl.all_horizontal(pl.col(c).eq_missing(pl.col(f"{c}_{other}")) for c in columns)
    known = pl.col("stored").is_not_null() & pl.col("wanted").is_not_null()
    broken = both.filter(~(same & known)).drop("stored", "wanted").sort(*KEY_COLUMNS)
    return _build_finding(check, timeframe, both.height, broken)


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

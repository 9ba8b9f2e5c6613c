"""Asset checks: what is stored, read on its own and held against the rules of a candle.

`examine` is a plain function of a frame; the rest reads the partitions of a run and tells Dagster. A table
that can't be read raises: an outage is never a failed check.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from k2_ohlcv.defs.resources import LakeResource
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.domain.window import DAY, Interval, coalesce, midnight
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.files import within
from k2_ohlcv.lake.inventory import data_spans

_KEY = ("exchange", "symbol", "window_start")
_PRICES = ("open_price", "high_price", "low_price", "close_price")
#: Rows that a failed check shows.
SAMPLES = 20
#: So many days are in memory at once: 31 of 1m with 50 markets are two million rows.
_CHUNK = 31 * DAY
#: A check that is run by itself, without partitions, looks so far back from the newest data.
_LOOKBACK = 31 * DAY


@dataclass(frozen=True)
class Rule:
    """One check: what it holds, and the rows of a frame that break it."""

    name: str
    holds: str
    broken: Callable[[Timeframe], pl.Expr]


def _misaligned(timeframe: Timeframe) -> pl.Expr:
    start, end = pl.col("window_start"), pl.col("window_end")
    return (
        (end - start != timeframe.length)
        | (start.dt.epoch("us") % timeframe.micros != 0)
        | (pl.col("window_date") != start.dt.date())
    )


RULES = (
    Rule(
        "price_relationships",
        "high is at least, and low at most, every other price; all prices are positive",
        lambda _: (
            (pl.col("high_price") < pl.max_horizontal(_PRICES))
            | (pl.col("low_price") > pl.min_horizontal(_PRICES))
            | (pl.min_horizontal(_PRICES) <= 0)
        ),
    ),
    Rule(
        "vwap_bounds",
        "vwap lies between low and high",
        lambda _: (pl.col("vwap") < pl.col("low_price")) | (pl.col("vwap") > pl.col("high_price")),
    ),
    Rule(
        "positive_metrics",
        "volume is positive, there is a trade, and nothing is null",
        lambda _: (
            (pl.col("volume") <= 0) | (pl.col("trade_count") < 1) | pl.any_horizontal(pl.all().is_null())
        ),
    ),
    Rule(
        "window_alignment",
        "windows have the timeframe's length and lie on its grid, under their UTC date",
        _misaligned,
    ),
    Rule(
        "unique_windows",
        "one row per exchange, symbol and window",
        lambda _: pl.struct(_KEY).is_duplicated(),
    ),
)


@dataclass
class Outcome:
    """What a rule found."""

    windows: int = 0
    failures: int = 0
    partitions: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, object]] = field(default_factory=list)


def examine(frame: pl.DataFrame, timeframe: Timeframe, outcomes: dict[str, Outcome]) -> None:
    """Hold the candles of a frame against every rule, and add what is found to the outcomes, by rule name."""
    for rule in RULES:
        outcome = outcomes.setdefault(rule.name, Outcome())
        # A comparison with null is null: that is the business of the rule on nulls, not of the others.
        broken = frame.filter(rule.broken(timeframe).fill_null(value=rule.name == "positive_metrics"))
        outcome.windows += frame.height
        outcome.failures += broken.height
        outcome.partitions.update(
            timeframe.grain.key(timeframe.grain.partition(start))
            for start in broken["window_start"].drop_nulls()
        )
        outcome.samples += broken.head(SAMPLES - len(outcome.samples)).to_dicts()


def examine_stored(lake: Lake, timeframe: Timeframe, intervals: Sequence[Interval]) -> dict[str, Outcome]:
    """Hold the stored candles of whole partitions against every rule."""
    outcomes = {rule.name: Outcome() for rule in RULES}
    table = lake.candles(timeframe)
    for chunk in _chunks(coalesce(intervals)):
        frame = pl.from_arrow(table.scan(row_filter=within("window_start", [chunk])).to_arrow())
        assert isinstance(frame, pl.DataFrame)
        examine(frame, timeframe, outcomes)
    return outcomes


def _chunks(intervals: Sequence[Interval]) -> Iterator[Interval]:
    for whole in intervals:
        start = whole.start
        while start < whole.end:
            yield Interval(start, min(start + _CHUNK, whole.end))
            start += _CHUNK


def build() -> list[dg.AssetChecksDefinition]:
    """The checks of every candle table."""
    return [_checks_of(timeframe) for timeframe in TIMEFRAMES]


def _checks_of(timeframe: Timeframe) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=f"check_{timeframe.table}",
        specs=[
            dg.AssetCheckSpec(rule.name, asset=timeframe.table, description=rule.holds, blocking=True)
            for rule in RULES
        ],
    )
    def check(context: dg.AssetCheckExecutionContext, lake: LakeResource) -> Iterator[dg.AssetCheckResult]:
        outcomes = examine_stored(lake.lake, timeframe, _examined(context, lake.lake, timeframe))
        for name, outcome in outcomes.items():
            yield _result(name, outcome)

    return check


def _examined(context: dg.AssetCheckExecutionContext, lake: Lake, timeframe: Timeframe) -> list[Interval]:
    """The partitions that this run materialized, else those that its tags name, else the newest data.

    Partitioned checks, which would know their partitions, are a preview that loses range runs; and a refresh
    touches partitions that its tags do not name.
    """
    if done := _materialized(context, timeframe):
        return timeframe.grain.partitions(done)
    tags = context.run.tags
    first = tags.get("dagster/asset_partition_range_start") or tags.get("dagster/partition")
    last = tags.get("dagster/asset_partition_range_end") or first
    if first and last:
        spans = [_partition(timeframe, key) for key in (first, last)]
        return [Interval(spans[0].start, spans[1].end)]
    spans = data_spans(lake, [timeframe])
    if not spans:
        return []
    newest = Interval(spans[-1].end - _LOOKBACK, spans[-1].end)
    return [both for span in spans if (both := span.intersect(newest))]


def _materialized(context: dg.AssetCheckExecutionContext, timeframe: Timeframe) -> list[Interval]:
    entries = context.instance.all_logs(
        context.run.run_id, of_type={dg.DagsterEventType.ASSET_MATERIALIZATION}
    )
    events = [entry.dagster_event for entry in entries]
    return [
        _partition(timeframe, event.partition)
        for event in events
        if event and event.partition and event.asset_key == dg.AssetKey(timeframe.table)
    ]


def _partition(timeframe: Timeframe, key: str) -> Interval:
    return timeframe.grain.partition(midnight(date.fromisoformat(key)))


def _result(name: str, outcome: Outcome) -> dg.AssetCheckResult:
    metadata: dict[str, Any] = {"windows_examined": outcome.windows, "failures": outcome.failures}
    if outcome.failures:
        metadata["partitions"] = ", ".join(sorted(outcome.partitions))
        metadata["failing_rows"] = dg.MarkdownMetadataValue(_markdown(outcome.samples))
    return dg.AssetCheckResult(
        check_name=name,
        passed=outcome.failures == 0,
        description=f"{outcome.failures:,} of {outcome.windows:,} windows fail."
        if outcome.failures
        else None,
        metadata=metadata,
    )


def _markdown(rows: Sequence[Mapping[str, object]]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""The checks of a candle table: their names, and what each of them demands. Running them is in `checks`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One check of every candle table.

    Attributes:
        name: the name of the check.
        rule: the condition for a pass.
        is_blocking: whether a failure stops downstream assets.
        whole: whether the check covers the whole table, whatever windows are examined.
    """

    name: str
    rule: str
    is_blocking: bool = True
    whole: bool = False


CHECKS: tuple[Check, ...] = (
    Check(
        "price_relationships", "high is the highest price, low is the lowest price, all prices are positive"
    ),
    Check("vwap_bounds", "vwap lies between low and high"),
    Check("positive_metrics", "volume is positive, there is at least one trade, and nothing is null"),
    Check(
        "window_alignment",
        "windows have the length, the grid, the UTC date and the partition of their timeframe",
    ),
    Check(
        "unique_windows",
        "each exchange, symbol and window start has one row. After a run: in the files with the windows that "
        "it reconciled",
    ),
    Check(
        "reconciles_with_trades",
        "candles and trades have the same windows, with equal count, volume, high and low. After a run: the "
        "windows that it reconciled. The audit compares whole days",
    ),
    Check(
        "timeframes_agree",
        "the candles are equal to the roll-up of the 1m candles. After a run: the windows that it reconciled "
        "(no 1d candles after a refresh of single markets). The audit compares whole days",
        is_blocking=False,
    ),
    Check(
        "gaps",
        "always passes: lists spans without a candle, with the reason. After a run: in the windows that it "
        "reconciled",
        is_blocking=False,
    ),
    Check(
        "freshness",
        "the lag of the table's watermark is within its freshness policy",
        is_blocking=False,
        whole=True,
    ),
    Check(
        "trade_times",
        "every trade has a time from 2009-01-01 to the end of tomorrow, UTC; candles leave out other trades",
        is_blocking=False,
        whole=True,
    ),
)

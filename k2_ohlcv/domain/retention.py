"""What may go, decided and nothing more: partitions, snapshots, files to compact. Carried out in `lake`.

Every function here is pure: the same values give the same decision, whatever the tables and clocks do next.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain
from k2_ohlcv.domain.window import DAY, Interval

#: Snapshots are kept for so many days: long enough to look into what went wrong before a weekend.
SNAPSHOT_DAYS = 5
#: Files that nothing knows may belong to a commit that is being made; none takes so long.
ORPHAN_AGE = 3 * DAY
#: A trades file below this is small: less than a fifth of one that ingestion fills.
SMALL_FILE = 2 * 1024 * 1024
#: So many small files in a partition are worth rewriting.
MANY_FILES = 8

_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": DAY,
    "w": 7 * DAY,
    "y": 365 * DAY,
}
_FORM = "a number and a unit (m, h, d, w or y), such as 30d, or off to keep everything"
_START = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class RetentionSettings:
    """How long what is kept; None is for ever.

    Attributes:
        candles: by the name of the timeframe.
        trades: the trades.
        snapshots: snapshots of all tables.
    """

    candles: Mapping[str, timedelta | None]
    trades: timedelta | None
    snapshots: timedelta


def retention_settings(environ: Mapping[str, str]) -> RetentionSettings:
    """What the environment says: `K2_RETENTION_1M` to `_1D`, `K2_RETENTION_TRADES`, `K2_SNAPSHOT_DAYS`.

    Raises:
        UsageError: a value is of the wrong form, or less than its table needs to be kept fresh.
    """
    candles = {}
    for timeframe in TIMEFRAMES:
        need = f"{timeframe.table} may be behind its trades for"
        variable = f"K2_RETENTION_{timeframe.name.upper()}"
        candles[timeframe.name] = _kept(environ, variable, timeframe.kept, timeframe.fail, need)
    most = max(timeframe.fail for timeframe in TIMEFRAMES)
    trades = _kept(environ, "K2_RETENTION_TRADES", None, most, "candle tables may be behind their trades for")
    return RetentionSettings(candles, trades, _snapshot_days(environ))


def _kept(
    environ: Mapping[str, str], variable: str, default: timedelta | None, least: timedelta, need: str
) -> timedelta | None:
    text = environ.get(variable, "").strip()
    if not text or text == "off":
        return None if text else default
    found = re.fullmatch(r"(\d{1,6})\s*([mhdwy])", text)
    if not found:
        raise UsageError(f"{variable}={text!r} is not a duration: write {_FORM}")
    kept = int(found[1]) * _UNITS[found[2]]
    if kept < least:
        hours = least / timedelta(hours=1)
        raise UsageError(f"{variable}={text!r} is too short: {need} {hours:.3g} hours, and no less is kept")
    return kept


def _snapshot_days(environ: Mapping[str, str]) -> timedelta:
    text = environ.get("K2_SNAPSHOT_DAYS", "").strip()
    if text and not re.fullmatch(r"\d{1,6}", text):
        raise UsageError(
            f"K2_SNAPSHOT_DAYS={text!r} is not a number of days: write a whole number, such as 5"
        )
    return int(text or SNAPSHOT_DAYS) * DAY


def reference(as_of: datetime | None, newest: datetime | None, now: datetime) -> datetime | None:
    """The moment that ages are measured from.

    A feed that died, or a lake of historical data, is not eaten from behind: its newest trade holds the time.

    Args:
        as_of: the moment that was asked for, if any.
        newest: the newest trade; None where there are no trades, and then nothing has an age.
        now: the clock.
    """
    if as_of is not None:
        return as_of
    return min(newest, now) if newest is not None else None


def cutoff(moment: datetime | None, kept: timedelta | None, grain: Grain) -> datetime | None:
    """Where what is kept begins: the start of the oldest partition that stays. None where nothing may go."""
    if moment is None or kept is None or moment - _START < kept:
        return None
    return grain.floor(moment - kept)


def expired(partitions: Iterable[Interval], line: datetime | None) -> list[Interval]:
    """The partitions that go: those that have ended by the line, whole ones only, in order."""
    return sorted(p for p in set(partitions) if line is not None and p.end <= line)


@dataclass(frozen=True)
class Coverage:
    """Up to where a candle table has taken in the trades.

    Attributes:
        table: the candle table.
        until: trades before it are in the candles as they are; None where that is so for all trades.
        reason: why not further.
    """

    table: str
    until: datetime | None = None
    reason: str = ""


def frozen_line(
    line: datetime | None, coverages: Iterable[Coverage]
) -> tuple[datetime | None, tuple[Coverage, ...]]:
    """How far trades may be expired, and the candle tables that hold the line back.

    Args:
        line: what the age of the trades allows.
        coverages: of every candle table.
    """
    behind = tuple(c for c in coverages if line and c.until is not None and c.until < line)
    allowed = [Grain.DAY.floor(c.until) for c in behind if c.until is not None]
    return min(allowed, default=line), behind


@dataclass(frozen=True)
class Version:
    """A snapshot: its id, its place in the order of commits, and when it was made."""

    snapshot_id: int
    order: int
    made: datetime


def old_snapshots(
    versions: Iterable[Version],
    *,
    before: datetime,
    current: int | None,
    held: Collection[int],
    needed: Collection[int],
) -> list[int]:
    """The snapshots that expire, oldest first.

    Args:
        versions: all that the table has.
        before: those made before this moment may go.
        current: the current one never goes.
        held: nor do those that a branch or tag names.
        needed: nor those that a watermark names, nor any that came after the first of these.
    """
    ordered = sorted(versions, key=lambda v: (v.order, v.made))
    first = next((v.order for v in ordered if v.snapshot_id in needed), None)
    stays = {current, *held}
    return [
        v.snapshot_id
        for v in ordered
        if v.made < before and v.snapshot_id not in stays and (first is None or v.order < first)
    ]


def crowded(sizes: Mapping[Interval, Iterable[int]], written: Collection[Interval]) -> list[Interval]:
    """The partitions that have so many small files that they are worth rewriting, in order.

    Args:
        sizes: of each partition's files, in bytes.
        written: the partitions that are being written: rewriting one would only make its writers start over.
    """
    return sorted(
        partition
        for partition, found in sizes.items()
        if partition not in written and sum(size < SMALL_FILE for size in found) >= MANY_FILES
    )

"""The watermark of a candle table: the trades snapshot that the table is equal to, and the open intervals.

Each candle commit of the project writes the watermark into its snapshot's summary. A rollback therefore
restores the watermark together with the candles. Table properties repeat the watermark for other tools. The
changes of the trades since the watermark are in `metadata.pending_changes`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from k2_ohlcv.domain.intervals import Interval, coalesce, intersect_all, merge_to_at_most, subtract
from k2_ohlcv.lake.interval_text import format_interval, format_moment, parse_interval, parse_moment
from k2_ohlcv.lake.metadata.files import diff_files, file_partition, table_grain

#: Properties of a candle table: the last trades snapshot that the whole table was equal to, the latest-trade
#: time of that snapshot, and the fingerprint of the trades.
SNAPSHOT_PROPERTY = "k2.trades-snapshot-id"
HEAD_PROPERTY = "k2.trades-head"
FINGERPRINT_PROPERTY = "k2.trades-fingerprint"
#: Summary key of the whole watermark as JSON.
STATE_KEY = "k2.watermark"

#: Maximum open intervals in a summary. Further intervals are merged across the smallest gaps.
_MAX_OPEN = 128
#: Maximum refused windows in a summary. Further refused windows are open without being listed.
_MAX_REFUSED = 50


@dataclass(frozen=True)
class RefusedWindow:
    """A window that breaks an invariant. Its stored candle was not changed.

    Attributes:
        check: the name of the failed check.
        exchange: the exchange of the market; None where the trades have none.
        symbol: the symbol of the market; None where the trades have none.
        window: the window.
    """

    check: str
    exchange: str | None
    symbol: str | None
    window: Interval

    def __str__(self) -> str:
        return f"{self.exchange} {self.symbol} {self.window.start:%Y-%m-%dT%H:%M:%SZ} ({self.check})"


@dataclass(frozen=True)
class Watermark:
    """The trades snapshot that a candle table is equal to, and the intervals where it may differ.

    Attributes:
        snapshot_id: outside `open_intervals` the table is equal to the trades of this snapshot.
        latest_trade_at: the time of the newest trade of that snapshot; None without trades.
        fingerprint: the fingerprint of the trades table at that snapshot.
        open_intervals: aligned intervals in which the table may differ from that snapshot.
        refused: the first windows in `open_intervals` that break an invariant.
        complete: the last snapshot that the whole table was equal to; None where none was.
        complete_latest_trade_at: the time of the newest trade of that snapshot.
        touched: intervals in `open_intervals` that other writers changed and no refresh has reconciled.
        until: trades from this time on had an impossible time and were left out; None if unknown.
        frozen_before: the frozen_before time of the trades. Earlier trades were left out; None without one.
    """

    snapshot_id: int
    latest_trade_at: datetime | None
    fingerprint: str = ""
    open_intervals: tuple[Interval, ...] = ()
    refused: tuple[RefusedWindow, ...] = ()
    complete: int | None = None
    complete_latest_trade_at: datetime | None = None
    touched: tuple[Interval, ...] = ()
    until: datetime | None = field(default=None, compare=False)
    frozen_before: datetime | None = field(default=None, compare=False)

    @classmethod
    def from_table(cls, table: Table) -> "Watermark | None":
        """Read the watermark from the history of a candle table; None where the history has none.

        The newest snapshot with a watermark decides. Partitions that other writers changed later are open.
        """
        watermark = _newest_watermark(table)
        return None if watermark is None or _is_property_removed(table, watermark) else watermark

    @property
    def is_complete(self) -> bool:
        """Whether the whole table is equal to the trades of the snapshot."""
        return not self.open_intervals

    def with_reconciled(
        self, reconciled: Sequence[Interval], refused: Iterable[RefusedWindow]
    ) -> "Watermark":
        """The watermark after some intervals were reconciled, except for the refused windows.

        Open intervals are not limited: a limit opens time between them, which no later commit would close.
        """
        earlier = [r for r in self.refused if not intersect_all([r.window], reconciled)]
        all_refused = [*earlier, *refused]
        remaining = subtract(self.open_intervals, reconciled)
        open_ = tuple(coalesce([*remaining, *(r.window for r in all_refused)]))
        touched = tuple(intersect_all(subtract(self.touched, reconciled), open_))
        watermark = replace(
            self, open_intervals=open_, refused=tuple(all_refused[:_MAX_REFUSED]), touched=touched
        )
        if open_:
            return watermark
        return replace(watermark, complete=self.snapshot_id, complete_latest_trade_at=self.latest_trade_at)

    def limited(self) -> "Watermark":
        """The watermark to store, with a limited number of open intervals."""
        return replace(self, open_intervals=_limit_open(self.open_intervals))

    def with_open(self, intervals: Iterable[Interval]) -> "Watermark":
        """The watermark with further aligned intervals open."""
        return replace(self, open_intervals=_limit_open([*self.open_intervals, *intervals]))

    def properties(self) -> dict[str, str]:
        """The table properties that repeat the watermark; empty until the table is complete once."""
        if self.complete is None:
            return {}
        head = self.complete_latest_trade_at.isoformat() if self.complete_latest_trade_at else ""
        return {
            SNAPSHOT_PROPERTY: str(self.complete),
            HEAD_PROPERTY: head,
            FINGERPRINT_PROPERTY: self.fingerprint,
        }

    def summary(self) -> dict[str, str]:
        """The entries of a snapshot's summary: the whole watermark, and copies of the properties."""
        state = {
            "snapshot": self.snapshot_id,
            "head": format_moment(self.latest_trade_at),
            "fingerprint": self.fingerprint,
            "open": [format_interval(interval) for interval in self.open_intervals],
            "touched": [format_interval(interval) for interval in self.touched],
            "refused": [[r.check, r.exchange, r.symbol, format_interval(r.window)] for r in self.refused],
            "complete": self.complete,
            "complete_head": format_moment(self.complete_latest_trade_at),
            "until": format_moment(self.until),
            "frozen": format_moment(self.frozen_before),
        }
        repeated = {key: text for key, text in self.properties().items() if key != FINGERPRINT_PROPERTY}
        return {**repeated, STATE_KEY: json.dumps(state, separators=(",", ":"))}

    def is_mirrored(self, table: Table) -> bool:
        """Whether the properties of the table repeat the watermark."""
        return all(table.properties.get(key) == value for key, value in self.properties().items())


def carry_over_summary(table: Table) -> dict[str, str]:
    """The summary entries of a commit that reconciles nothing: the watermark stays the same.

    Empty for a table without candles.
    """
    is_candles = "window_start" in table.schema().column_names
    watermark = Watermark.from_table(table) if is_candles else None
    return watermark.summary() if watermark else {}


def explain_missing_watermark(table: Table) -> str:
    """Explain why a candle table has no watermark."""
    repeated = table.properties.get(SNAPSHOT_PROPERTY)
    if repeated is not None:
        return (
            f"the watermark, trades snapshot {repeated}, is not in the table's history: an older version "
            "wrote it, its summary cannot be read, or the history was replaced or has expired"
        )
    return "the watermark was removed" if _newest_watermark(table) else "the table has no watermark yet"


def _is_property_removed(table: Table, watermark: Watermark) -> bool:
    """Whether a user removed the property to have the whole table reconciled."""
    return watermark.complete is not None and table.properties.get(SNAPSHOT_PROPERTY) is None


def _newest_watermark(table: Table) -> Watermark | None:
    """The watermark of the newest snapshot that has one. Partitions that others changed later are open."""
    touched: list[Interval] = []
    snapshot = table.current_snapshot()
    while snapshot is not None:
        if text := _state_of_snapshot(snapshot):
            watermark = _parse_state(text)
            if watermark is None or not touched:
                return watermark
            return replace(
                watermark,
                open_intervals=_limit_open([*watermark.open_intervals, *touched]),
                touched=_limit_open([*watermark.touched, *touched]),
            )
        parent = table.metadata.snapshot_by_id(snapshot.parent_snapshot_id or 0)
        if parent is None:
            return None  # no commit of the project in the history, or the history in between has expired
        if not _is_replace(snapshot):
            partitions = _touched_partitions(table, parent, snapshot)
            if partitions is None:
                return None
            touched += partitions
        snapshot = parent
    return None


def _state_of_snapshot(snapshot: Snapshot) -> str | None:
    return snapshot.summary.additional_properties.get(STATE_KEY) if snapshot.summary else None


def _is_replace(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and snapshot.summary.operation == Operation.REPLACE


def _touched_partitions(table: Table, parent: Snapshot, child: Snapshot) -> list[Interval] | None:
    """The partitions of the files in which two snapshots differ; None where a file has another spec."""
    grain = table_grain(table)
    removed, added = diff_files(table, parent.snapshot_id, child.snapshot_id)
    files = [*removed, *added]
    if any(f.file.spec_id != table.spec().spec_id for f in files):
        return None
    return grain.partitions([*(file_partition(f.file, grain) for f in files), *(f.span for f in files)])


def _parse_state(text: str) -> Watermark | None:
    """Parse the watermark of a summary; None where the text is truncated or has an unknown form."""
    try:
        state = json.loads(text)
        return Watermark(
            snapshot_id=state["snapshot"],
            latest_trade_at=parse_moment(state["head"]),
            fingerprint=state["fingerprint"],
            open_intervals=tuple(map(parse_interval, state["open"])),
            refused=tuple(
                RefusedWindow(check, exchange, symbol, parse_interval(window))
                for check, exchange, symbol, window in state["refused"]
            ),
            complete=state["complete"],
            complete_latest_trade_at=parse_moment(state["complete_head"]),
            touched=tuple(map(parse_interval, state.get("touched", ()))),
            until=parse_moment(state["until"]),
            frozen_before=parse_moment(state.get("frozen")),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _limit_open(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    return tuple(merge_to_at_most(intervals, _MAX_OPEN))

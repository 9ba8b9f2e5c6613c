"""The watermark of a candle table: to which trades snapshot it is equal, and where that is still open.

Every commit of ours writes the watermark into the summary of its snapshot, so that a rollback takes it back
together with the candles. Table properties repeat it for other tools. What is open against the trades as they
are now is in `open_work`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from k2_ohlcv.domain.intervals import Interval, intersect_all, merge_to_at_most, subtract
from k2_ohlcv.lake.metadata.files import diff_files, file_partition, table_grain

#: Properties of a candle table: the trades snapshot that all of it is equal to, the newest trade in that
#: snapshot, and what was read (`fingerprint`).
SNAPSHOT_PROPERTY = "k2.trades-snapshot-id"
HEAD_PROPERTY = "k2.trades-head"
FINGERPRINT_PROPERTY = "k2.trades-fingerprint"
#: In the summary of a snapshot of ours: the whole watermark as JSON.
STATE_KEY = "k2.watermark"

#: Intervals that a summary lists. More are joined across the narrowest gaps: a summary is read at each look.
_MAX_OPEN = 128
#: Refused windows that a summary names. All of them are open, named or not.
_MAX_REFUSED = 50


@dataclass(frozen=True)
class RefusedWindow:
    """A window that breaks an invariant: its stored candle stays as it was.

    Attributes:
        check: the name of the check that it breaks.
        exchange: of the market; None where the trades do not say it.
        symbol: likewise.
        window: from its start up to its end.
    """

    check: str
    exchange: str | None
    symbol: str | None
    window: Interval

    def __str__(self) -> str:
        return f"{self.exchange} {self.symbol} {self.window.start:%Y-%m-%dT%H:%M:%SZ} ({self.check})"


@dataclass(frozen=True)
class Watermark:
    """What a candle table is equal to.

    Attributes:
        snapshot_id: outside `open_intervals` the table is equal to the trades of this snapshot.
        latest_trade_at: the newest trade of that snapshot; None where it has none.
        fingerprint: of which trades table, and how it was read.
        open_intervals: aligned intervals in which the table may differ from that snapshot.
        refused: windows in `open_intervals` that break an invariant, the first ones only.
        complete: the last snapshot to which the whole table was equal; None where there was none.
        complete_latest_trade_at: the newest trade of that snapshot.
        touched: intervals in `open_intervals` that other writers touched, and no commit of ours has
            reconciled since.
        until: trades from this moment on were left out, as they had an impossible time then; None if unknown.
        frozen_before: trades before this were left out, as they lay behind the frozen line then; None without
            one.
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
        """The watermark of a candle table as its history tells it; None where that cannot be known.

        The nearest snapshot of ours decides. Partitions that other writers touched after it are open.
        """
        mark = _nearest_watermark(table)
        return None if mark is None or _is_property_removed(table, mark) else mark

    @property
    def is_complete(self) -> bool:
        """Whether the whole table is equal to the trades of the snapshot."""
        return not self.open_intervals

    def with_reconciled(self, done: Sequence[Interval], refused: Iterable[RefusedWindow]) -> "Watermark":
        """The watermark once some intervals are reconciled, some windows of them excepted."""
        still = [r for r in self.refused if not intersect_all([r.window], done)]
        now = [*still, *refused]
        left = _limit_open([*subtract(self.open_intervals, done), *(r.window for r in now)])
        touched = tuple(intersect_all(subtract(self.touched, done), left))
        mark = replace(self, open_intervals=left, refused=tuple(now[:_MAX_REFUSED]), touched=touched)
        return (
            mark
            if left
            else replace(mark, complete=self.snapshot_id, complete_latest_trade_at=self.latest_trade_at)
        )

    def with_open(self, intervals: Iterable[Interval]) -> "Watermark":
        """The watermark with further aligned intervals open."""
        return replace(self, open_intervals=_limit_open([*self.open_intervals, *intervals]))

    def properties(self) -> dict[str, str]:
        """The table properties that repeat this; none before the table was complete once."""
        if self.complete is None:
            return {}
        head = self.complete_latest_trade_at.isoformat() if self.complete_latest_trade_at else ""
        return {
            SNAPSHOT_PROPERTY: str(self.complete),
            HEAD_PROPERTY: head,
            FINGERPRINT_PROPERTY: self.fingerprint,
        }

    def summary(self) -> dict[str, str]:
        """The entries of a snapshot's summary that say this: all of it, and what the properties say."""
        state = {
            "snapshot": self.snapshot_id,
            "head": _format_moment(self.latest_trade_at),
            "fingerprint": self.fingerprint,
            "open": [f"{_format_moment(i.start)}/{_format_moment(i.end)}" for i in self.open_intervals],
            "touched": [f"{_format_moment(i.start)}/{_format_moment(i.end)}" for i in self.touched],
            "refused": [
                [
                    r.check,
                    r.exchange,
                    r.symbol,
                    f"{_format_moment(r.window.start)}/{_format_moment(r.window.end)}",
                ]
                for r in self.refused
            ],
            "complete": self.complete,
            "complete_head": _format_moment(self.complete_latest_trade_at),
            "until": _format_moment(self.until),
            "frozen": _format_moment(self.frozen_before),
        }
        repeated = {key: text for key, text in self.properties().items() if key != FINGERPRINT_PROPERTY}
        return {**repeated, STATE_KEY: json.dumps(state, separators=(",", ":"))}

    def is_mirrored(self, table: Table) -> bool:
        """Whether the properties of the table repeat this."""
        return all(table.properties.get(key) == value for key, value in self.properties().items())


def carry_over_summary(table: Table) -> dict[str, str]:
    """The summary entries of a commit of ours that reconciles nothing: the watermark stays what it was.

    None for a table that has no candles.
    """
    is_candles = "window_start" in table.schema().column_names
    mark = Watermark.from_table(table) if is_candles else None
    return mark.summary() if mark else {}


def explain_missing_watermark(table: Table) -> str:
    """Why a candle table has no watermark, in words."""
    repeated = table.properties.get(SNAPSHOT_PROPERTY)
    if repeated is not None:
        return (
            f"the watermark, trades snapshot {repeated}, is not in the table's history: an older version "
            "wrote it, its summary cannot be read, or the history was replaced or has expired"
        )
    return "the watermark was removed" if _nearest_watermark(table) else "the table has no watermark yet"


def _is_property_removed(table: Table, mark: Watermark) -> bool:
    """Whether somebody took the property away, to have everything reconciled."""
    return mark.complete is not None and table.properties.get(SNAPSHOT_PROPERTY) is None


def _nearest_watermark(table: Table) -> Watermark | None:
    """The watermark in the nearest snapshot of ours, with what other writers touched since as open."""
    touched: list[Interval] = []
    snapshot = table.current_snapshot()
    while snapshot is not None:
        if text := _state_of_snapshot(snapshot):
            mark = _parse_state(text)
            if mark is None:
                return None
            every = _limit_open([*mark.touched, *touched])
            return (
                replace(mark, open_intervals=_limit_open([*mark.open_intervals, *touched]), touched=every)
                if touched
                else mark
            )
        parent = table.metadata.snapshot_by_id(snapshot.parent_snapshot_id or 0)
        if parent is None:
            return None  # before our first commit, or the history in between has expired
        if not _is_replace(snapshot):
            spans = _touched_partitions(table, parent, snapshot)
            if spans is None:
                return None
            touched += spans
        snapshot = parent
    return None


def _state_of_snapshot(snapshot: Snapshot) -> str | None:
    return snapshot.summary.additional_properties.get(STATE_KEY) if snapshot.summary else None


def _is_replace(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and snapshot.summary.operation == Operation.REPLACE


def _touched_partitions(table: Table, parent: Snapshot, child: Snapshot) -> list[Interval] | None:
    """The partitions of the files in which two snapshots differ; None where a file does not say its own."""
    grain = table_grain(table)
    gone, come = diff_files(table, parent.snapshot_id, child.snapshot_id)
    files = [*gone, *come]
    if any(f.file.spec_id != table.spec().spec_id for f in files):
        return None
    return grain.partitions([*(file_partition(f.file, grain) for f in files), *(f.span for f in files)])


def _parse_state(text: str) -> Watermark | None:
    """The watermark that a summary says; None where it was cut, or is of a form that is not known here."""
    try:
        state = json.loads(text)
        return Watermark(
            snapshot_id=state["snapshot"],
            latest_trade_at=_parse_moment(state["head"]),
            fingerprint=state["fingerprint"],
            open_intervals=tuple(_parse_interval(one) for one in state["open"]),
            refused=tuple(
                RefusedWindow(c, e, s, _parse_interval(window)) for c, e, s, window in state["refused"]
            ),
            complete=state["complete"],
            complete_latest_trade_at=_parse_moment(state["complete_head"]),
            touched=tuple(_parse_interval(one) for one in state.get("touched", ())),
            until=_parse_moment(state["until"]),
            frozen_before=_parse_moment(state.get("frozen")),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _limit_open(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    return tuple(merge_to_at_most(intervals, _MAX_OPEN))


def _parse_interval(text: str) -> Interval:
    start, _, end = text.partition("/")
    return Interval(datetime.fromisoformat(start), datetime.fromisoformat(end))


def _parse_moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _format_moment(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None

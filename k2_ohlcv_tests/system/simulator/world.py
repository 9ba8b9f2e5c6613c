"""The lake of one life, its model, and the checks after every step."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import polars as pl
import pyarrow as pa
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table

from k2_ohlcv.domain.candle import Candle, Trade
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Timeframe
from k2_ohlcv.engine.session import Engine
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.history_bounds import (
    EXPIRED_BEFORE,
    FREEZING_BEFORE,
    FREEZING_TABLE,
    FROZEN_BEFORE,
    read_bound,
)
from k2_ohlcv.lake.metadata import files, manifests
from k2_ohlcv.lake.schemas import CANDLE_SPECS, TRADES_SPEC
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade
from k2_ohlcv_tests.system.simulator.faults import Hooks
from k2_ohlcv_tests.system.simulator.model import Model, describe_differences, sort_candles

MARKETS = [("BINANCE", "BTCUSDT"), ("KRAKEN", "XBTEUR")]
#: Lives begin before a month's end, so that monthly partitions change too.
FIRST_DAY = datetime(2024, 2, 27, tzinfo=UTC)
#: New trades are of this many days, up to today.
DAYS = 3
#: Times of a day at the edges of windows, in microseconds.
EDGES = (0, 59_999_999, 60_000_000, 299_999_999, 3_600_000_000, 43_200_000_000, 86_399_999_999)


class UnexpectedStateError(AssertionError):
    """The lake differs from the model."""


def trades_of(rows: pa.Table) -> Counter[Trade]:
    """The trades of rows of the trades table."""
    return Counter(Trade(**row) for row in pl.DataFrame(rows).drop("ingested_at").to_dicts())


@dataclass
class World:
    """The state of one life.

    Attributes:
        home: the lake's folder.
        engine: shared by all lives of a process.
        rng: decides everything in the current step.
        today: the day of the newest trades.
        base: the live trades after the last commit of another writer. A command starts from these.
        interruptions: the number of steps of other writers during the current step.
        check: the check of the trades at any point of the current step. It updates the model.
    """

    home: Path
    engine: Engine
    rng: Random
    hooks: Hooks
    lake: Lake = field(init=False)
    model: Model = field(default_factory=Model)
    today: datetime = FIRST_DAY + 2 * DAY
    base: Counter[Trade] = field(default_factory=Counter)
    interruptions: int = 0
    check: Callable[[], None] = lambda: None
    numbers: int = 90

    def __post_init__(self) -> None:
        self.reopen()

    def reopen(self) -> None:
        """Open the lake as a new process does, with empty caches."""
        self.lake = lakes.open_lake(self.home)
        for reader in (manifests._list_manifests, manifests._files_with_sequence, files._manifest_spans):
            reader.cache_clear()

    # Reads of the lake.

    def table(self) -> Table | None:
        """The trades table, or None if it does not exist."""
        return self._table(TRADES_SPEC.identifier)

    def candles(self, timeframe: Timeframe) -> Table | None:
        """A candle table, or None if it does not exist."""
        return self._table(CANDLE_SPECS[timeframe.name].identifier)

    def _table(self, identifier: tuple[str, str]) -> Table | None:
        try:
            with self.hooks.disarmed():
                return self.lake.catalog.load_table(identifier)
        except NoSuchTableError:
            return None

    def live(self) -> Counter[Trade]:
        """The live trades, read by a scan of PyIceberg."""
        table = self.table()
        if table is None or table.current_snapshot() is None:
            return Counter()
        return trades_of(table.scan().to_arrow())

    def stored(self, timeframe: Timeframe) -> list[Candle]:
        """The rows of a candle table, by key."""
        table = self.candles(timeframe)
        if table is None or table.current_snapshot() is None:
            return []
        rows = pl.DataFrame(table.scan().to_arrow()).drop("created_at", "updated_at")
        return sort_candles(Candle(**row) for row in rows.to_dicts())

    # Commits of other writers.

    def note_trades(self) -> None:
        """Take the stored trades as expected: a commit of another writer is right by definition."""
        self.model.trades = self.base = self.live()
        self.note_snapshot()

    def note_snapshot(self) -> None:
        """Record the trades of the current snapshot."""
        table = self.table()
        if table is not None and table.metadata.current_snapshot_id is not None:
            self.model.states[table.metadata.current_snapshot_id] = self.model.trades

    def note_candles(self, timeframe: Timeframe) -> None:
        """Take the candles that another writer left before the history bounds. They cannot be corrected."""
        self.model.preserve(timeframe, self.stored(timeframe))

    def note_announced_bounds(self) -> None:
        """Take the bounds that retention announced for a trades table that another writer has replaced."""
        table = self.table()
        if table is None:
            return
        for timeframe in TIMEFRAMES:
            candles = self.candles(timeframe)
            if candles is None or candles.properties.get(FREEZING_TABLE) == str(table.metadata.table_uuid):
                continue
            bound, start = read_bound(candles, FREEZING_BEFORE), self.model.history_start(timeframe)
            if bound is not None and (start is None or bound > start):
                self.model.announced[timeframe.name] = bound
                self.note_candles(timeframe)

    # Checks.

    def check_bounds(self) -> None:
        """Update the model with new history bounds. The candles that became frozen must have been right."""
        table, before = self.table(), {t: self.model.expected_candles(t) for t in TIMEFRAMES}
        frozen = read_bound(table, FROZEN_BEFORE) if table is not None else None
        if frozen and (self.model.frozen is None or frozen > self.model.frozen):
            self.model.frozen = frozen
        for timeframe in TIMEFRAMES:
            candles = self.candles(timeframe)
            expired = read_bound(candles, EXPIRED_BEFORE) if candles is not None else None
            if expired:
                self.model.expired[timeframe.name] = expired
            start = self.model.history_start(timeframe)
            if start is None:
                continue
            stored = [c for c in self.stored(timeframe) if c.window_start < start]
            expired_before = self.model.expired.get(timeframe.name)
            expected = [c for c in before[timeframe] if c.window_start < start]
            expected = [c for c in expected if expired_before is None or c.window_start >= expired_before]
            remaining = [c for c in stored if expired_before is None or c.window_start >= expired_before]
            self._assert_equal(f"{timeframe.table}: candles that were just frozen", expected, remaining)
            self.model.preserve(timeframe, stored)
        self.note_announced_bounds()

    def check_honest(self, timeframe: Timeframe) -> bool:
        """A table that is reported as up to date equals the trades. Returns whether it is reported so."""
        with self.hooks.disarmed():
            current = preview_refresh(self.lake, timeframe).is_current
        if not current:
            return False
        if self.model.refused_windows(timeframe):
            raise UnexpectedStateError(
                f"{timeframe.table} is reported as up to date, and has windows to refuse"
            )
        self.check_equal(timeframe)
        return True

    def check_equal(self, timeframe: Timeframe, refused: Iterable[Candle] = ()) -> None:
        """A table equals the live trades. Refused windows are unchanged."""
        self._assert_equal(
            timeframe.table, self.model.expected_candles(timeframe, refused), self.stored(timeframe)
        )

    def _assert_equal(self, what: str, expected: list[Candle], stored: list[Candle]) -> None:
        if sort_candles(expected) != sort_candles(stored):
            raise UnexpectedStateError(f"{what}: {describe_differences(expected, stored)}")

    # Random choices.

    def trade(self, market: int | None = None, at: datetime | None = None) -> Trade:
        """A new trade of one of the last days."""
        rng = self.rng
        self.numbers += 1
        exchange, symbol = MARKETS[rng.randrange(len(MARKETS)) if market is None else market]
        price = Decimal(rng.choice([1, rng.randrange(1, 10**6), 9_999_999_999])).scaleb(-rng.randrange(9))
        quantity = Decimal(rng.randrange(1, 10**5)).scaleb(-rng.randrange(9))
        return make_trade(self.numbers, at or self.moment(), price, quantity, market=(exchange, symbol))

    def moment(self) -> datetime:
        """A moment of the last days, often at the edge of a window."""
        micros = self.rng.choice([self.rng.choice(EDGES), self.rng.randrange(86_400_000_000)])
        return self.today - self.rng.randrange(DAYS) * DAY + timedelta(microseconds=micros)

    def choose(self, trades: Iterable[Trade], most: int) -> list[Trade]:
        """Choose some of the trades, the same ones in every replay."""
        ordered = sorted(
            set(trades), key=lambda t: (t.timestamp, t.sort_key, t.exchange, t.price, t.quantity)
        )
        return self.rng.sample(ordered, min(len(ordered), most))

"""The lake of one life, its model, and what must hold after every step."""

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
from k2_ohlcv.lake.history_bounds import EXPIRED_BEFORE, FROZEN_BEFORE, read_bound
from k2_ohlcv.lake.metadata import files, manifests
from k2_ohlcv.lake.schemas import CANDLE_SPECS, TRADES_SPEC
from k2_ohlcv.operations.reconcile import preview_refresh
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade
from k2_ohlcv_tests.system.simulator.faults import Hooks
from k2_ohlcv_tests.system.simulator.model import Model, by_key, differences

MARKETS = [("BINANCE", "BTCUSDT"), ("KRAKEN", "XBTEUR")]
#: Lives begin before a month's end, so that monthly partitions change too.
FIRST_DAY = datetime(2024, 2, 27, tzinfo=UTC)
#: Trades lie in so many days up to the life's present.
DAYS = 3
#: Times of a day at which things go wrong.
EDGES = (0, 59_999_999, 60_000_000, 299_999_999, 3_600_000_000, 43_200_000_000, 86_399_999_999)


class WrongError(AssertionError):
    """Something that must hold does not."""


def trades_of(rows: pa.Table) -> Counter[Trade]:
    """The trades of rows of the trades table."""
    return Counter(Trade(**row) for row in pl.DataFrame(rows).drop("ingested_at").to_dicts())


@dataclass
class World:
    """One life: where it is lived, and what is known of it.

    Attributes:
        home: the lake's folder.
        engine: shared by all lives of a process.
        rng: decides all of the step that is under way.
        today: the day that the newest trades come from.
        base: the live trades after the last commit of somebody else: what a command of ours began with.
        others: how many commands of others came between within the step under way.
        check: what holds of the trades at any point of the step under way; takes them over into the model.
    """

    home: Path
    engine: Engine
    rng: Random
    hooks: Hooks
    lake: Lake = field(init=False)
    model: Model = field(default_factory=Model)
    today: datetime = FIRST_DAY + 2 * DAY
    base: Counter[Trade] = field(default_factory=Counter)
    others: int = 0
    check: Callable[[], None] = lambda: None
    numbers: int = 90

    def __post_init__(self) -> None:
        self.reopen()

    def reopen(self) -> None:
        """A new process: nothing is left of what the last one knew."""
        self.lake = lakes.open_lake(self.home)
        for reader in (manifests._list_manifests, manifests._files_with_sequence, files._manifest_spans):
            reader.cache_clear()

    # What there is.

    def table(self) -> Table | None:
        """The trades table as the catalog has it; None where it is not there."""
        return self._table(TRADES_SPEC.identifier)

    def candles(self, timeframe: Timeframe) -> Table | None:
        """A candle table as the catalog has it; None where it is not there."""
        return self._table(CANDLE_SPECS[timeframe.name].identifier)

    def _table(self, identifier: tuple[str, str]) -> Table | None:
        try:
            with self.hooks.asleep():
                return self.lake.catalog.load_table(identifier)
        except NoSuchTableError:
            return None

    def live(self) -> Counter[Trade]:
        """The live trades, as PyIceberg's own scan reads them."""
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
        return by_key(Candle(**row) for row in rows.to_dicts())

    # What others do.

    def note_trades(self) -> None:
        """Take the trades as they are: another writer's commit is right by definition."""
        self.model.trades = self.base = self.live()
        self.note_snapshot()

    def note_snapshot(self) -> None:
        """Remember what the current snapshot holds."""
        table = self.table()
        if table is not None and table.metadata.current_snapshot_id is not None:
            self.model.states[table.metadata.current_snapshot_id] = self.model.trades

    def note_candles(self, timeframe: Timeframe) -> None:
        """Take what another writer left behind the lines: nobody can make it right again."""
        self.model.keep(timeframe, self.stored(timeframe))

    # What must hold.

    def check_lines(self) -> None:
        """Take over lines that retention moved; what they froze must have been right, or nothing is."""
        table, before = self.table(), {t: self.model.wanted(t) for t in TIMEFRAMES}
        frozen = read_bound(table, FROZEN_BEFORE) if table is not None else None
        if frozen and (self.model.frozen is None or frozen > self.model.frozen):
            self.model.frozen = frozen
        for timeframe in TIMEFRAMES:
            candles = self.candles(timeframe)
            expired = read_bound(candles, EXPIRED_BEFORE) if candles is not None else None
            if expired:
                self.model.expired[timeframe.name] = expired
            start = self.model.start(timeframe)
            if start is None:
                continue
            stored = [c for c in self.stored(timeframe) if c.window_start < start]
            line = self.model.expired.get(timeframe.name)
            wanted = [c for c in before[timeframe] if c.window_start < start]
            wanted = [c for c in wanted if line is None or c.window_start >= line]
            stored_ahead = [c for c in stored if line is None or c.window_start >= line]
            self._equal(f"{timeframe.table}: candles that were just frozen", by_key(wanted), stored_ahead)
            self.model.keep(timeframe, stored)

    def check_honest(self, timeframe: Timeframe) -> bool:
        """A table that is called up to date is equal to the trades. Returns whether it is called so."""
        with self.hooks.asleep():
            current = preview_refresh(self.lake, timeframe).is_current
        if not current:
            return False
        if self.model.unfit(timeframe):
            raise WrongError(f"{timeframe.table} is called up to date, and has windows to refuse")
        self.check_equal(timeframe)
        return True

    def check_equal(self, timeframe: Timeframe, refused: Iterable[Candle] = ()) -> None:
        """A table is equal to the trades as they are; refused windows are what they were."""
        self._equal(timeframe.table, self.model.wanted(timeframe, refused), self.stored(timeframe))

    def _equal(self, what: str, wanted: list[Candle], stored: list[Candle]) -> None:
        if by_key(wanted) != by_key(stored):
            raise WrongError(f"{what}: {differences(wanted, stored)}")

    # What can be chosen.

    def trade(self, market: int | None = None, at: datetime | None = None) -> Trade:
        """A new trade somewhere in the days up to the present."""
        rng = self.rng
        self.numbers += 1
        exchange, symbol = MARKETS[rng.randrange(len(MARKETS)) if market is None else market]
        price = Decimal(rng.choice([1, rng.randrange(1, 10**6), 9_999_999_999])).scaleb(-rng.randrange(9))
        quantity = Decimal(rng.randrange(1, 10**5)).scaleb(-rng.randrange(9))
        return make_trade(self.numbers, at or self.moment(), price, quantity, market=(exchange, symbol))

    def moment(self) -> datetime:
        """A moment of the last days, often one at which things go wrong."""
        micros = self.rng.choice([self.rng.choice(EDGES), self.rng.randrange(86_400_000_000)])
        return self.today - self.rng.randrange(DAYS) * DAY + timedelta(microseconds=micros)

    def some(self, trades: Iterable[Trade], most: int) -> list[Trade]:
        """Some of the trades, chosen alike in every replay."""
        ordered = sorted(
            set(trades), key=lambda t: (t.timestamp, t.sort_key, t.exchange, t.price, t.quantity)
        )
        return self.rng.sample(ordered, min(len(ordered), most))

"""Steps of other writers: whatever they may do to trades and to candle tables, through PyIceberg."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import polars as pl
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import ancestors_of

from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import MissingTradesError
from k2_ohlcv.domain.timeframe import TIMEFRAMES
from k2_ohlcv.lake.schemas import NAMESPACE, TRADES_SPEC
from k2_ohlcv.operations.reconcile import refresh as refresh_table
from k2_ohlcv_tests.support import external_tables, lakes, table_history
from k2_ohlcv_tests.system.simulator.commands import put_in
from k2_ohlcv_tests.system.simulator.model import key_of
from k2_ohlcv_tests.system.simulator.world import World, WrongError, trades_of


def _filled(world: World) -> Table | None:
    """The trades table, where there are trades in it."""
    table = world.table()
    return table if table is not None and table.current_snapshot() and world.model.trades else None


def _tasks(world: World, table: Table, most: int) -> list[FileScanTask]:
    """Some data files, chosen alike in every replay: paths are random."""
    tasks = list(table.scan().plan_files())
    tasks.sort(
        key=lambda t: (
            str(t.file.partition),
            t.file.record_count,
            sorted((t.file.lower_bounds or {}).items()),
        )
    )
    return world.rng.sample(tasks, min(len(tasks), most))


def append(world: World) -> None:
    """Trades that another writer puts in."""
    rows = [world.trade() for _ in range(world.rng.randrange(1, 8))]
    table = world.lake.writable_trades()
    table.append(lakes.to_trades_rows(table, rows))
    world.note_trades()


def spoil(world: World) -> None:
    """A trade without any quantity, as no ingestion lets in: its windows are refused."""
    table = world.lake.writable_trades()
    table.append(lakes.to_trades_rows(table, [replace(world.trade(), quantity=Decimal(0))]))
    world.note_trades()


def overwrite(world: World) -> None:
    """Copy-on-write: files are replaced by their corrected rows, or by fewer."""
    if (table := _filled(world)) is None:
        return
    keep, price = world.rng.choice([1.0, 0.7]), Decimal(world.rng.randrange(1, 10**9)).scaleb(-8)

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        rows = rows.sort("timestamp", "trade_id", "price").head(max(1, int(rows.height * keep)))
        first = pl.int_range(pl.len()) == 0
        return rows.with_columns(
            price=pl.when(first).then(pl.lit(price, pl.Decimal(18, 8))).otherwise("price")
        )

    table_history.rewrite_files(table, _tasks(world, table, 2), change)
    world.note_trades()


def delete(world: World) -> None:
    """A span of time goes: whole files by metadata, others rewritten."""
    if (table := _filled(world)) is None:
        return
    start = world.moment()
    end = start + timedelta(minutes=world.rng.choice([1, 90, 1440]))
    table.delete(f"timestamp >= '{start.isoformat()}' and timestamp < '{end.isoformat()}'")
    world.note_trades()


def delete_rows(world: World) -> None:
    """Merge-on-read: a delete file names rows by position, and the day it is of."""
    if (table := _filled(world)) is None:
        return
    tasks = _tasks(world, table, 1)
    if not tasks:
        return
    task = tasks[0]
    position = world.rng.randrange(task.file.record_count)
    external_tables.delete_positions(table, [(task.file.file_path, position)], partition=task.file.partition)
    world.note_trades()


def add_back(world: World) -> None:
    """A file with deleted rows is overwritten with all of its rows, those that were deleted included."""
    if (table := _filled(world)) is None:
        return
    for task in _tasks(world, table, 100):
        there = set(map(key_of, world.live()))
        if task.delete_files and not there & set(map(key_of, _deleted(table, task))):
            table_history.rewrite_files(table, [FileScanTask(task.file)], lambda rows: rows)
            world.note_trades()
            return


def _deleted(table: Table, task: FileScanTask) -> Counter[Trade]:
    """The rows of a file that delete files hide. Beside another row of its id, one's place would be open."""
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    raw, live = (trades_of(scan.to_table([one])) for one in (FileScanTask(task.file), task))
    return raw - live


def compact(world: World) -> None:
    """Files become one, in a `replace` snapshot; no row changes."""
    if (table := _filled(world)) is None:
        return
    before = world.live()
    table_history.compact_files(table, _tasks(world, table, 3))
    world.note_trades()
    if world.live() != before:
        raise WrongError("the simulator's own compaction changed rows")


def roll_back(world: World) -> None:
    """An earlier snapshot of trades becomes the current one."""
    if (table := _filled(world)) is not None and (chosen := _earlier(world, table)):
        table_history.roll_back(table, chosen)
        world.note_trades()


def expire(world: World) -> None:
    """Any snapshot but the current one leaves the history, of trades or of a candle table."""
    tables = [world.table(), *(world.candles(t) for t in TIMEFRAMES)]
    table = world.rng.choice(tables)
    if table is None or table.current_snapshot() is None:
        return
    snapshots = sorted(table.snapshots(), key=lambda s: s.sequence_number or 0)
    old = [s.snapshot_id for s in snapshots if s.snapshot_id != table.metadata.current_snapshot_id]
    if old:
        table_history.expire_snapshot(table, world.rng.choice(old))


def rename(world: World) -> None:
    """The trades table is away for a moment: a refresh meanwhile fails by name, and touches nothing."""
    if _filled(world) is None:
        return
    away, timeframe = (NAMESPACE, "away"), world.rng.choice(TIMEFRAMES)
    before = world.stored(timeframe)
    world.lake.catalog.rename_table(TRADES_SPEC.identifier, away)
    try:
        refresh_table(world.lake, world.engine, timeframe)
    except MissingTradesError:
        pass  # the command says what is wrong
    finally:
        if world.table() is not None:
            raise WrongError("a refresh created the trades table")
        world.lake.catalog.rename_table(away, TRADES_SPEC.identifier)
    if world.stored(timeframe) != before:
        raise WrongError(f"{timeframe.table} changed while there was no trades table")


def recreate(world: World) -> None:
    """The trades table is dropped, and made again from some of its trades."""
    if _filled(world) is None:
        return
    rows = world.some(world.model.trades, world.rng.choice([5, 10**6]))
    world.lake.catalog.drop_table(TRADES_SPEC.identifier)
    put_in(world, rows)
    world.note_trades()


def roll_back_candles(world: World) -> None:
    """An earlier snapshot of a candle table becomes the current one."""
    timeframe = world.rng.choice(TIMEFRAMES)
    table = world.candles(timeframe)
    if table is not None and table.current_snapshot() and (chosen := _earlier(world, table)):
        table_history.roll_back(table, chosen)
        world.note_candles(timeframe)


def change_candles(world: World) -> None:
    """Somebody appends to a candle table, deletes from it, overwrites or compacts it."""
    timeframe, how = (
        world.rng.choice(TIMEFRAMES),
        world.rng.choice(["append", "delete", "overwrite", "compact"]),
    )
    table = world.candles(timeframe)
    if table is None or table.current_snapshot() is None or not world.stored(timeframe):
        return
    tasks = _tasks(world, table, 1)
    if how == "append":
        table.append(table.scan().to_arrow().slice(0, 2))
    elif how == "delete":
        start = timeframe.floor(world.moment())
        table.delete(f"window_start >= '{start.isoformat()}'")
    elif how == "compact":
        table_history.compact_files(table, tasks)
    else:
        table_history.rewrite_files(
            table, tasks, lambda rows: rows.with_columns(volume=pl.col("volume") + Decimal(1))
        )
    world.note_candles(timeframe)


def _earlier(world: World, table: Table) -> int | None:
    """Some ancestor of the current snapshot, often a near one."""
    chain = [s.snapshot_id for s in ancestors_of(table.current_snapshot(), table.metadata)][1:]
    return world.rng.choice(chain[: world.rng.choice([1, 3, 50])]) if chain else None

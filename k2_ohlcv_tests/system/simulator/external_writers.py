"""Steps of other writers, who change trades and candle tables through PyIceberg."""

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
from k2_ohlcv_tests.system.simulator.commands import ingest_rows
from k2_ohlcv_tests.system.simulator.model import key_of
from k2_ohlcv_tests.system.simulator.world import UnexpectedStateError, World, trades_of


def _filled(world: World) -> Table | None:
    """The trades table, or None if it has no trades."""
    table = world.table()
    return table if table is not None and table.current_snapshot() and world.model.trades else None


def _tasks(world: World, table: Table, most: int) -> list[FileScanTask]:
    """Choose some data files, the same ones in every replay. Their paths are random and do not count."""
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
    """Append new trades."""
    rows = [world.trade() for _ in range(world.rng.randrange(1, 8))]
    table = world.lake.writable_trades()
    table.append(lakes.to_trades_rows(table, rows))
    world.note_trades()


def spoil(world: World) -> None:
    """Append a trade without quantity, which ingestion would reject. Its windows are refused."""
    table = world.lake.writable_trades()
    table.append(lakes.to_trades_rows(table, [replace(world.trade(), quantity=Decimal(0))]))
    world.note_trades()


def overwrite(world: World) -> None:
    """Replace files copy-on-write by corrected rows, or by fewer rows."""
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
    """Delete an interval: whole files by metadata, other files by a rewrite."""
    if (table := _filled(world)) is None:
        return
    start = world.moment()
    end = start + timedelta(minutes=world.rng.choice([1, 90, 1440]))
    table.delete(f"timestamp >= '{start.isoformat()}' and timestamp < '{end.isoformat()}'")
    world.note_trades()


def delete_rows(world: World) -> None:
    """Delete a row merge-on-read, by its position in a file of a day."""
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
    """Overwrite a file that has deleted rows with all its rows, so that the deleted rows are back."""
    if (table := _filled(world)) is None:
        return
    for task in _tasks(world, table, 100):
        live_keys = set(map(key_of, world.live()))
        if task.delete_files and not live_keys & set(map(key_of, _deleted(table, task))):
            table_history.rewrite_files(table, [FileScanTask(task.file)], lambda rows: rows)
            world.note_trades()
            return


def _deleted(table: Table, task: FileScanTask) -> Counter[Trade]:
    """The rows of a file that delete files hide."""
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    raw, live = (trades_of(scan.to_table([scanned])) for scanned in (FileScanTask(task.file), task))
    return raw - live


def compact(world: World) -> None:
    """Merge files into one, in a `replace` snapshot. No row changes."""
    if (table := _filled(world)) is None:
        return
    before = world.live()
    table_history.compact_files(table, _tasks(world, table, 3))
    world.note_trades()
    if world.live() != before:
        raise UnexpectedStateError("the simulator's own compaction changed rows")


def roll_back(world: World) -> None:
    """Make an earlier snapshot of trades the current one."""
    if (table := _filled(world)) is not None and (chosen := _earlier(world, table)):
        table_history.roll_back(table, chosen)
        world.note_trades()


def expire(world: World) -> None:
    """Expire any snapshot but the current one, of trades or of a candle table."""
    tables = [world.table(), *(world.candles(t) for t in TIMEFRAMES)]
    table = world.rng.choice(tables)
    if table is None or table.current_snapshot() is None:
        return
    snapshots = sorted(table.snapshots(), key=lambda s: s.sequence_number or 0)
    old = [s.snapshot_id for s in snapshots if s.snapshot_id != table.metadata.current_snapshot_id]
    if old:
        table_history.expire_snapshot(table, world.rng.choice(old))


def rename(world: World) -> None:
    """Rename the trades table for a moment. A refresh then fails with an error and changes nothing."""
    if _filled(world) is None:
        return
    away, timeframe = (NAMESPACE, "away"), world.rng.choice(TIMEFRAMES)
    before = world.stored(timeframe)
    world.lake.catalog.rename_table(TRADES_SPEC.identifier, away)
    try:
        refresh_table(world.lake, world.engine, timeframe)
    except MissingTradesError:
        pass  # the expected error
    finally:
        if world.table() is not None:
            raise UnexpectedStateError("a refresh created the trades table")
        world.lake.catalog.rename_table(away, TRADES_SPEC.identifier)
    if world.stored(timeframe) != before:
        raise UnexpectedStateError(f"{timeframe.table} changed while there was no trades table")


def recreate(world: World) -> None:
    """Drop the trades table, and create it again from some of its trades."""
    if _filled(world) is None:
        return
    rows = world.choose(world.model.trades, world.rng.choice([5, 10**6]))
    world.lake.catalog.drop_table(TRADES_SPEC.identifier)
    ingest_rows(world, rows)
    world.note_trades()
    world.note_announced_bounds()


def roll_back_candles(world: World) -> None:
    """Make an earlier snapshot of a candle table the current one."""
    timeframe = world.rng.choice(TIMEFRAMES)
    table = world.candles(timeframe)
    if table is not None and table.current_snapshot() and (chosen := _earlier(world, table)):
        table_history.roll_back(table, chosen)
        world.note_candles(timeframe)


def change_candles(world: World) -> None:
    """Append to a candle table, delete from it, overwrite or compact it."""
    timeframe, action = (
        world.rng.choice(TIMEFRAMES),
        world.rng.choice(["append", "delete", "overwrite", "compact"]),
    )
    table = world.candles(timeframe)
    if table is None or table.current_snapshot() is None or not world.stored(timeframe):
        return
    tasks = _tasks(world, table, 1)
    if action == "append":
        table.append(table.scan().to_arrow().slice(0, 2))
    elif action == "delete":
        start = timeframe.floor(world.moment())
        table.delete(f"window_start >= '{start.isoformat()}'")
    elif action == "compact":
        table_history.compact_files(table, tasks)
    else:
        table_history.rewrite_files(
            table, tasks, lambda rows: rows.with_columns(volume=pl.col("volume") + Decimal(1))
        )
    world.note_candles(timeframe)


def _earlier(world: World, table: Table) -> int | None:
    """An ancestor of the current snapshot, often a recent one."""
    chain = [s.snapshot_id for s in ancestors_of(table.current_snapshot(), table.metadata)][1:]
    return world.rng.choice(chain[: world.rng.choice([1, 3, 50])]) if chain else None

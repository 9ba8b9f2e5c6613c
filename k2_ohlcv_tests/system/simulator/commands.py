"""Steps of ours: each command, and what must hold when it has come to its end or failed."""

from collections import Counter
from contextlib import nullcontext, suppress

from k2_ohlcv.domain.candle import Candle, Trade
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.retention import RetentionPolicy
from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain, Timeframe
from k2_ohlcv.engine.window_cache import WindowCache
from k2_ohlcv.operations.delete_trades import Selection, delete_trades
from k2_ohlcv.operations.ingest import ingest as ingest_files
from k2_ohlcv.operations.reconcile import rebuild as rebuild_table
from k2_ohlcv.operations.reconcile import refresh as refresh_table
from k2_ohlcv.operations.reports import ReconcileReport, RefusedWindowsError
from k2_ohlcv.operations.retention import retention as apply_retention
from k2_ohlcv_tests.system.simulator.model import key_of
from k2_ohlcv_tests.system.simulator.world import DAYS, World, WrongError


def ingest(world: World) -> None:
    """New trades, late ones, known ones and corrected ones, in one file and commits of any size."""
    rng = world.rng
    rows = [world.trade() for _ in range(rng.randrange(1, 20))]
    rows += world.some(world.model.trades, rng.choice([0, 0, 3]))
    rows += [_corrected(t) for t in world.some(world.model.trades, rng.choice([0, 0, 2]))]
    rng.shuffle(rows)
    world.check = lambda: check_added(world, rows)
    try:
        put_in(world, rows, batch_rows=rng.choice([1, 5, 1000]))
    finally:
        world.check()
    if not world.others:
        check_all_in(world, rows)


def _corrected(trade: Trade) -> Trade:
    """The same id with another price: a conflict, which stays out."""
    return (
        Trade(*vars(trade).values())
        if trade.price == 7
        else Trade(**{**vars(trade), "price": type(trade.price)(7)})
    )


def put_in(world: World, rows: list[Trade], batch_rows: int = 1000) -> None:
    """Ingest rows from a file."""
    path = world.home / "some.csv"
    lines = [
        f"{t.exchange},{t.symbol},{t.timestamp.isoformat()},{t.price:f},{t.quantity:f},{t.trade_id}"
        for t in rows
    ]
    path.write_text("\n".join(["exchange,symbol,timestamp,price,quantity,trade_id", *lines]) + "\n")
    workspace = world.home / "work"
    ingest_files(world.lake, [path], workspace=workspace, batch_rows=batch_rows)
    if left := [p.name for p in workspace.iterdir() if p.name != ".lock"]:
        raise WrongError(f"ingestion left {left} in its workspace")


def check_added(world: World, rows: list[Trade]) -> None:
    """Nothing that was there is gone, all that came is of the file, and each id of it is there once."""
    live = world.live()
    if lost := world.base - live:
        raise WrongError(f"ingestion lost {sum(lost.values())} trades, such as {next(iter(lost))}")
    added = live - world.base
    if strange := added - Counter(rows):
        raise WrongError(f"ingestion made {sum(strange.values())} trades, such as {next(iter(strange))}")
    known, came = set(map(key_of, world.base)), Counter(map(key_of, added.elements()))
    if doubled := [key for key, count in came.items() if count > 1 or key in known]:
        raise WrongError(f"ingestion doubled {len(doubled)} ids, such as {doubled[0]}")
    world.model.trades = live
    world.note_snapshot()


def check_all_in(world: World, rows: list[Trade]) -> None:
    """After an ingestion without error each id of the file is in the table, or behind the frozen line."""
    ids, frozen = set(map(key_of, world.live())), world.model.frozen
    for row in rows:
        if key_of(row) not in ids and not (frozen and row.timestamp < frozen):
            raise WrongError(f"ingestion left out {row}")


def refresh(world: World) -> None:
    """One table, or all of them as a run does that shares its scan."""
    if world.rng.random() < 0.6:
        refresh_one(world, world.rng.choice(TIMEFRAMES))
        return
    cache = WindowCache(TIMEFRAMES)
    for timeframe in TIMEFRAMES:
        refresh_one(world, timeframe, cache)


def refresh_one(world: World, timeframe: Timeframe, cache: WindowCache | None = None) -> None:
    """Where nobody interfered, the table is up to date then, and right."""
    others, fault, before = world.others, world.hooks.armed, world.stored(timeframe)
    refused = None
    try:
        refresh_table(world.lake, world.engine, timeframe, cache=cache)
    except RefusedWindowsError as error:
        refused = error.report
    current = world.check_honest(timeframe)
    undisturbed = world.others == others and not (fault and fault.happened)
    if undisturbed and refused:
        check_refused(world, timeframe, before, refused)
    elif undisturbed and world.model.trades and not current:
        raise WrongError(f"{timeframe.table} was refreshed, and is not up to date")


def check_refused(world: World, timeframe: Timeframe, before: list[Candle], report: ReconcileReport) -> None:
    """Exactly the windows with unfit trades are named, and stay as they were. All others are right."""
    unfit = world.model.unfit(timeframe)
    named = {(w.exchange, w.symbol, w.window.start) for w in report.refused}
    if named != unfit:
        raise WrongError(f"{timeframe.table} refused {len(named - unfit)} more and {len(unfit - named)} less")
    world.check_equal(timeframe, [c for c in before if (c.exchange, c.symbol, c.window_start) in unfit])


def remove_unfit(world: World) -> None:
    """`trades delete` removes the unfit trades of each market, and nothing else."""
    frozen = world.model.frozen
    unfit = [t for t in world.model.trades if t.quantity <= 0 and (not frozen or t.timestamp >= frozen)]
    for market in sorted({(t.exchange, t.symbol) for t in unfit}):
        ids = sorted({t.trade_id for t in unfit if (t.exchange, t.symbol) == market})
        before = world.live()
        delete_trades(world.lake, Selection(market, ids=tuple(ids)), apply=True)
        gone = before - world.live()
        if any(t.quantity > 0 for t in gone) or world.live() - before:
            raise WrongError(f"a deletion of unfit trades changed others: {gone}")
        world.note_trades()


def rebuild(world: World) -> None:
    """Every partition of one table."""
    timeframe = world.rng.choice(TIMEFRAMES)
    with suppress(RefusedWindowsError) if world.model.unfit(timeframe) else nullcontext():
        rebuild_table(world.lake, world.engine, timeframe)
    world.check_honest(timeframe)


def rebuild_some(world: World) -> None:
    """Some partitions of one table; those behind a line are refused."""
    timeframe, rng = world.rng.choice(TIMEFRAMES), world.rng
    chosen = [timeframe.grain.partition(world.today - rng.randrange(DAYS + 1) * DAY) for _ in range(2)]
    lines = [line for line in (world.model.frozen, world.model.expired.get(timeframe.name)) if line]
    try:
        rebuild_table(world.lake, world.engine, timeframe, chosen)
    except RefusedWindowsError:
        if not world.model.unfit(timeframe):
            raise
    except UsageError:
        if not lines or not any(p.end <= max(lines) for p in chosen):
            raise
    world.check_honest(timeframe)


def retention(world: World) -> None:
    """Candles and trades of days long past go, and so do old snapshots with their files."""
    rng, keep = world.rng, Grain.DAY
    candles = {t.name: rng.choice([None, DAYS * DAY]) for t in TIMEFRAMES}
    trades = rng.choice([None, None, (DAYS - 1) * DAY])
    snapshots = rng.choice([0, 5]) * DAY
    world.check = lambda: check_dropped(world)
    try:
        apply_retention(
            world.lake,
            RetentionPolicy(candles, trades, snapshots),
            apply=rng.random() < 0.9,
            as_of=keep.floor(world.today) + DAY,
        )
    finally:
        world.check()


def check_dropped(world: World) -> None:
    """Only trades behind the line are gone, and what the line froze was right."""
    world.check_lines()
    line, live = world.model.frozen, world.live()
    if made := live - world.base:
        raise WrongError(f"retention made {sum(made.values())} trades, such as {next(iter(made))}")
    gone = [t for t in world.base - live if line is None or t.timestamp >= line]
    if gone:
        raise WrongError(f"retention dropped {gone[0]}, which is not behind its line {line}")
    world.model.trades = live
    world.note_snapshot()

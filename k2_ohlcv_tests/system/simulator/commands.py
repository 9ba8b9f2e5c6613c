"""The project's commands as steps, and the checks after each command has ended or failed."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal

from k2_ohlcv.domain.candle import Candle, Trade
from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.intervals import DAY, Interval
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
from k2_ohlcv_tests.system.simulator.world import DAYS, UnexpectedStateError, World

#: The folder for temporary files of ingestions, in the lake's folder.
WORKSPACE = "work"


def ingest(world: World) -> None:
    """Ingest new, late, known and corrected trades from one file, in commits of any size."""
    rng = world.rng
    rows = [world.trade() for _ in range(rng.randrange(1, 20))]
    rows += world.choose(world.model.trades, rng.choice([0, 0, 3]))
    rows += [_with_other_price(t) for t in world.choose(world.model.trades, rng.choice([0, 0, 2]))]
    rng.shuffle(rows)
    world.check = lambda: check_added(world, rows)
    try:
        ingest_rows(world, rows, batch_rows=rng.choice([1, 5, 1000]))
    finally:
        world.check()
    check_workspace(world)
    if not world.interruptions:
        check_complete(world, rows)


def _with_other_price(trade: Trade) -> Trade:
    """The same id with another price. This is a conflict, which is not added."""
    return replace(trade, price=Decimal(7))


def ingest_rows(world: World, rows: list[Trade], batch_rows: int = 1000) -> None:
    """Ingest rows from a file."""
    path = world.home / "rows.csv"
    lines = [
        f"{t.exchange},{t.symbol},{t.timestamp.isoformat()},{t.price:f},{t.quantity:f},{t.trade_id}"
        for t in rows
    ]
    path.write_text("\n".join(["exchange,symbol,timestamp,price,quantity,trade_id", *lines]) + "\n")
    ingest_files(world.lake, [path], workspace=world.home / WORKSPACE, batch_rows=batch_rows)


def check_workspace(world: World) -> None:
    """No ingestion leaves files in the workspace. Each one that still runs has a folder there."""
    if leftovers := [p.name for p in (world.home / WORKSPACE).iterdir() if p.name != ".lock"]:
        raise UnexpectedStateError(f"ingestions left {leftovers} in their workspace")


def check_added(world: World, rows: list[Trade]) -> None:
    """No trade is lost. All added trades are rows of the file, and each id is stored once."""
    live = world.live()
    if lost := world.base - live:
        raise UnexpectedStateError(f"ingestion lost {sum(lost.values())} trades, such as {next(iter(lost))}")
    added = live - world.base
    if unexpected := added - Counter(rows):
        raise UnexpectedStateError(
            f"ingestion added {sum(unexpected.values())} trades, such as {next(iter(unexpected))}"
        )
    known, counts = set(map(key_of, world.base)), Counter(map(key_of, added.elements()))
    if repeated := [key for key, count in counts.items() if count > 1 or key in known]:
        raise UnexpectedStateError(f"ingestion repeated {len(repeated)} ids, such as {repeated[0]}")
    world.model.trades = live
    world.note_snapshot()


def check_complete(world: World, rows: list[Trade]) -> None:
    """After an ingestion without error, each id of the file is stored or before `frozen_before`."""
    ids, frozen = set(map(key_of, world.live())), world.model.frozen
    for row in rows:
        if key_of(row) not in ids and not (frozen and row.timestamp < frozen):
            raise UnexpectedStateError(f"ingestion left out {row}")


def refresh(world: World) -> None:
    """Refresh one table, or all tables as a run with a shared scan does."""
    if world.rng.random() < 0.6:
        refresh_one(world, world.rng.choice(TIMEFRAMES))
        return
    cache = WindowCache(TIMEFRAMES)
    for timeframe in TIMEFRAMES:
        refresh_one(world, timeframe, cache)


def refresh_one(world: World, timeframe: Timeframe, cache: WindowCache | None = None) -> None:
    """Refresh a table. Without an interruption or a fault it is then up to date and right."""
    interruptions, fault, before = world.interruptions, world.hooks.armed, world.stored(timeframe)
    report = None
    try:
        refresh_table(world.lake, world.engine, timeframe, cache=cache)
    except RefusedWindowsError as error:
        report = error.report
    current = world.check_honest(timeframe)
    undisturbed = world.interruptions == interruptions and not (fault and fault.happened)
    if undisturbed and report:
        check_refused(world, timeframe, before, report)
    elif undisturbed and world.model.trades and not current:
        raise UnexpectedStateError(f"{timeframe.table} was refreshed, and is not up to date")


def check_refused(world: World, timeframe: Timeframe, before: list[Candle], report: ReconcileReport) -> None:
    """Exactly the windows with invalid trades are refused and unchanged. All others are right."""
    expected = world.model.refused_windows(timeframe)
    refused = {(w.exchange, w.symbol, w.window.start) for w in report.refused}
    if refused != expected:
        raise UnexpectedStateError(
            f"{timeframe.table} refused {len(refused - expected)} windows too many "
            f"and {len(expected - refused)} too few"
        )
    world.check_equal(timeframe, [c for c in before if (c.exchange, c.symbol, c.window_start) in expected])


def remove_invalid(world: World) -> None:
    """Remove the invalid trades of each market with `trades delete`, which changes no other trade."""
    frozen = world.model.frozen
    invalid = [t for t in world.model.trades if t.quantity <= 0 and (not frozen or t.timestamp >= frozen)]
    for market in sorted({(t.exchange, t.symbol) for t in invalid}):
        ids = sorted({t.trade_id for t in invalid if (t.exchange, t.symbol) == market})
        before = world.live()
        delete_trades(world.lake, Selection(market, ids=tuple(ids)), apply=True)
        removed = before - world.live()
        if any(t.quantity > 0 for t in removed) or world.live() - before:
            raise UnexpectedStateError(f"a deletion of invalid trades changed other trades: {removed}")
        world.note_trades()


def rebuild(world: World) -> None:
    """Rebuild every partition of one table."""
    timeframe = world.rng.choice(TIMEFRAMES)
    _rebuild(world, timeframe, None)
    world.check_honest(timeframe)


def _rebuild(world: World, timeframe: Timeframe, intervals: list[Interval] | None) -> None:
    """Rebuild a table. It may refuse windows that had invalid trades before it, or have some after it."""
    is_expected = bool(world.model.refused_windows(timeframe))
    try:
        rebuild_table(world.lake, world.engine, timeframe, intervals)
    except RefusedWindowsError:
        if not is_expected and not world.model.refused_windows(timeframe):
            raise


def rebuild_some(world: World) -> None:
    """Rebuild some partitions of one table. Partitions before a history bound are refused."""
    timeframe, rng = world.rng.choice(TIMEFRAMES), world.rng
    chosen = [timeframe.grain.partition(world.today - rng.randrange(DAYS + 1) * DAY) for _ in range(2)]
    start = world.model.history_start(timeframe)
    try:
        _rebuild(world, timeframe, chosen)
    except UsageError:
        if start is None or not any(p.end <= start for p in chosen):
            raise
    world.check_honest(timeframe)


def retention(world: World) -> None:
    """Drop old candles and trades, and expire old snapshots with their files."""
    rng = world.rng
    candles = {t.name: rng.choice([None, DAYS * DAY]) for t in TIMEFRAMES}
    trades = rng.choice([None, None, (DAYS - 1) * DAY])
    snapshots = rng.choice([0, 5]) * DAY
    world.check = lambda: check_dropped(world)
    try:
        apply_retention(
            world.lake,
            RetentionPolicy(candles, trades, snapshots),
            apply=rng.random() < 0.9,
            as_of=Grain.DAY.floor(world.today) + DAY,
        )
    finally:
        world.check()


def check_dropped(world: World) -> None:
    """Only trades before `frozen_before` are dropped, and the candles before it were right."""
    world.check_bounds()
    frozen, live = world.model.frozen, world.live()
    if added := live - world.base:
        raise UnexpectedStateError(
            f"retention added {sum(added.values())} trades, such as {next(iter(added))}"
        )
    wrong = [t for t in world.base - live if frozen is None or t.timestamp >= frozen]
    if wrong:
        raise UnexpectedStateError(
            f"retention dropped {wrong[0]}, which is not before frozen_before, {frozen}"
        )
    world.model.trades = live
    world.note_snapshot()

"""PyIceberg commits once for each attempt of ours, on every path.

Its own retry would put an old pin, and rows that were checked against an old table, on a newer base.
PyIceberg 0.12 retries in `Transaction.commit_transaction`, as often as the table's `commit.retry.num-retries`
says. Here every commit is counted, so that an upgrade which retries elsewhere is noticed.
"""

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, TableAlreadyExistsError
from pyiceberg.table import CommitTableResponse, Table, Transaction
from pyiceberg.table.update import AssertRefSnapshotId

import k2_ohlcv
from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.intervals import DAY
from k2_ohlcv.domain.retention import MIN_SMALL_FILES, RetentionPolicy
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.lake import append, retry
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.commit import CachedTransaction
from k2_ohlcv.lake.schemas import REJECTED_SPEC, TRADES_SPEC
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.operations.retention import retention
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
KEPT = RetentionPolicy({each.name: DAY for each in TIMEFRAMES}, 2 * DAY, timedelta(0))
PACKAGE = Path(k2_ohlcv.__file__).parent


@dataclass
class Commits:
    """What reached the catalog: the base that each call was held to, and who asked for the transaction."""

    #: Called before each call; may raise, or commit something else first.
    before: Callable[[Table, int], None] = lambda *_: None
    bases: list[tuple[str, int | None]] = field(default_factory=list)
    transactions: list[str] = field(default_factory=list)
    failed: int = 0


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    """Counts transactions and calls of the catalog; `before` may make a call fail."""
    seen, real, real_transaction = Commits(), SqlCatalog.commit_table, Transaction.commit_transaction
    busy: list[object] = []  # what `before` commits itself is not counted

    def commit_table(
        catalog: SqlCatalog, table: Table, requirements: Any, updates: Any
    ) -> CommitTableResponse:
        if not busy:
            bases = [r.snapshot_id for r in requirements if isinstance(r, AssertRefSnapshotId)]
            seen.bases.append((table.name()[-1], bases[0] if bases else None))
            busy.append(1)
            try:
                seen.before(table, len(seen.bases))
            except CommitFailedException:
                seen.failed += 1
                raise
            finally:
                busy.clear()
        return real(catalog, table, requirements, updates)

    def commit_transaction(transaction: Transaction) -> Table:
        if not busy:
            seen.transactions.append(str(sys._getframe(1).f_code.co_filename))
        return real_transaction(transaction)

    monkeypatch.setattr(SqlCatalog, "commit_table", commit_table)
    monkeypatch.setattr(Transaction, "commit_transaction", commit_transaction)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return seen


def trade(number: int, at: datetime = AT) -> Trade:
    return make_trade(number, at + timedelta(seconds=number), 1, 1, market=("X", "Y"))


def put_in(each_engine: EngineLake, tmp_path: Path, numbers: range, extra: str = "") -> None:
    """Ingest a file of trades, one of them no trade if `extra` says so."""
    rows = [f"{t.timestamp.isoformat()},1,1,{t.trade_id}\n" for t in map(trade, numbers)]
    path = tmp_path / "some.csv"
    path.write_text("timestamp,price,quantity,trade_id\n" + "".join(rows) + extra)
    ingest(each_engine.lake, [path], exchange="X", symbol="Y", workspace=tmp_path / "work")


@pytest.fixture
def filled(sail: EngineLake) -> EngineLake:
    """Ten days of trades, the last of them in many small files, and candles of all."""
    for day in range(10):
        lakes.add_trades(sail.lake, [trade(day, AT + day * DAY)])
    for number in range(20, 20 + MIN_SMALL_FILES):
        lakes.add_trades(sail.lake, [trade(number, AT + 8 * DAY)])
    for each in TIMEFRAMES:
        sail.refresh(each)
    return sail


def every_path(each_engine: EngineLake, tmp_path: Path) -> None:
    """Each way in which this project commits."""
    put_in(each_engine, tmp_path, range(100, 103), extra="never,1,1,1\n")
    each_engine.refresh(MINUTE)
    each_engine.rebuild(find_timeframe("1d"))
    for each in TIMEFRAMES:
        each_engine.refresh(each)
    retention(each_engine.lake, KEPT, apply=True, now=datetime.now(UTC) + DAY)


def committing() -> set[str]:
    """The modules that commit, as their text says."""
    return {
        str(path)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "commit_transaction"
    }


def test_no_commit_is_tried_again_by_pyiceberg(filled: EngineLake, commits: Commits, tmp_path: Path) -> None:
    """Every other commit fails: each transaction still reaches the catalog once, from every module."""

    def fail(_: Table, call: int) -> None:
        if call % 2:
            raise CommitFailedException("made to fail")

    commits.before = fail
    every_path(filled, tmp_path)
    assert commits.failed > 10
    assert len(commits.bases) == len(commits.transactions)
    ours = {path for path in commits.transactions if Path(path).is_relative_to(PACKAGE)}
    assert ours == set(commits.transactions) == committing()
    assert {name for name, _ in commits.bases} == {
        TRADES_SPEC.name,
        REJECTED_SPEC.name,
        *(t.table for t in TIMEFRAMES),
    }


def test_another_attempt_starts_from_what_is_there_by_then(
    filled: EngineLake, commits: Commits, tmp_path: Path
) -> None:
    """Whatever moved the base between load and commit is the base of our next attempt."""
    moved: dict[int, int] = {}

    def move(table: Table, call: int) -> None:
        if call % 2:
            other = filled.lake.catalog.load_table(table.name())
            producer = other.transaction()
            with producer.update_snapshot().fast_append():
                pass
            producer.commit_transaction()
            moved[call] = other.metadata.current_snapshot_id or 0

    commits.before = move
    every_path(filled, tmp_path)
    assert len(commits.bases) == len(commits.transactions)
    again = [
        (moved[call], base, name)
        for call, (name, base) in enumerate(commits.bases[1:], start=1)
        if call in moved and commits.bases[call - 1][0] == name
    ]
    assert len(again) > 10
    assert [(is_at, name) for was, is_at, name in again] == [(was, name) for was, is_at, name in again]


def test_attempts_are_ours_to_count(filled: EngineLake, commits: Commits, tmp_path: Path) -> None:
    """Where no commit succeeds, the catalog is asked as often as this project tries, and no more."""

    def fail(table: Table, call: int) -> None:
        raise CommitFailedException("made to fail")

    commits.before = fail
    with pytest.raises(Exception, match="20 attempts"):
        put_in(filled, tmp_path, range(100, 103))
    assert len(commits.bases) == append.MAX_APPEND_ATTEMPTS
    commits.bases.clear()
    with pytest.raises(Exception, match="8 attempts"):
        retention(filled.lake, KEPT, apply=True)
    assert len(commits.bases) == retry.MAX_ATTEMPTS


def test_pyiceberg_would_try_again_if_it_were_let(lake: Lake, commits: Commits) -> None:
    """What the tests above look for does happen at a table without our property."""
    lake.catalog.create_namespace("plain")
    table = lake.catalog.create_table(("plain", "trades"), TRADES_SPEC.schema)

    def fail(_: Table, call: int) -> None:
        if call == 1:
            raise CommitFailedException("made to fail")

    commits.before = fail
    transaction = CachedTransaction(table)
    with transaction.update_snapshot().fast_append():
        pass
    transaction.commit_transaction()
    assert (len(commits.bases), len(commits.transactions)) == (2, 1)


def test_a_table_is_created_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process was first, its table is taken as it is."""
    real, calls = SqlCatalog.create_table, []

    def create_table(catalog: SqlCatalog, *args: Any, **options: Any) -> Table:
        calls.append(args[0])
        real(catalog, *args, **options)
        raise TableAlreadyExistsError("made to fail")

    monkeypatch.setattr(SqlCatalog, "create_table", create_table)
    table = lake.writable_trades()
    assert calls == [TRADES_SPEC.identifier]
    assert table.properties["commit.retry.num-retries"] == "0"

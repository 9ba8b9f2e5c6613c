"""PyIceberg commits once for each attempt of this project, on every path.

PyIceberg's own retry would commit an old snapshot, and rows that were checked against an old table, on a
newer base. PyIceberg 0.12 retries in `Transaction.commit_transaction`, as often as the table's
`commit.retry.num-retries` says. These tests count every commit, so they find an upgrade that retries
elsewhere.
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
POLICY = RetentionPolicy({timeframe.name: DAY for timeframe in TIMEFRAMES}, 2 * DAY, timedelta(0))
PACKAGE = Path(k2_ohlcv.__file__).parent


@dataclass
class Commits:
    """The calls of the catalog: the required base of each, and the module that committed."""

    #: Called before each call. May raise, or commit something else first.
    before: Callable[[Table, int], None] = lambda *_: None
    bases: list[tuple[str, int | None]] = field(default_factory=list)
    transactions: list[str] = field(default_factory=list)
    failed: int = 0


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    """Counts transactions and catalog calls. `before` may make a call fail."""
    counted, real, real_transaction = Commits(), SqlCatalog.commit_table, Transaction.commit_transaction
    running: list[object] = []  # commits of `before` itself are not counted

    def commit_table(
        catalog: SqlCatalog, table: Table, requirements: Any, updates: Any
    ) -> CommitTableResponse:
        if not running:
            bases = [r.snapshot_id for r in requirements if isinstance(r, AssertRefSnapshotId)]
            counted.bases.append((table.name()[-1], bases[0] if bases else None))
            running.append(1)
            try:
                counted.before(table, len(counted.bases))
            except CommitFailedException:
                counted.failed += 1
                raise
            finally:
                running.clear()
        return real(catalog, table, requirements, updates)

    def commit_transaction(transaction: Transaction) -> Table:
        if not running:
            counted.transactions.append(str(sys._getframe(1).f_code.co_filename))
        return real_transaction(transaction)

    monkeypatch.setattr(SqlCatalog, "commit_table", commit_table)
    monkeypatch.setattr(Transaction, "commit_transaction", commit_transaction)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return counted


def trade(number: int, at: datetime = AT) -> Trade:
    return make_trade(number, at + timedelta(seconds=number), 1, 1, market=("X", "Y"))


def ingest_trades(each_engine: EngineLake, tmp_path: Path, numbers: range, extra: str = "") -> None:
    """Ingest a file of trades, and an extra row that may be invalid."""
    rows = [f"{t.timestamp.isoformat()},1,1,{t.trade_id}\n" for t in map(trade, numbers)]
    path = tmp_path / "some.csv"
    path.write_text("timestamp,price,quantity,trade_id\n" + "".join(rows) + extra)
    ingest(each_engine.lake, [path], exchange="X", symbol="Y", workspace=tmp_path / "work")


@pytest.fixture
def ten_days(sail: EngineLake) -> EngineLake:
    """Ten days of trades, one day in many small files, and candles of all."""
    for day in range(10):
        lakes.add_trades(sail.lake, [trade(day, AT + day * DAY)])
    for number in range(20, 20 + MIN_SMALL_FILES):
        lakes.add_trades(sail.lake, [trade(number, AT + 8 * DAY)])
    sail.refresh_tables(*TIMEFRAMES)
    return sail


def every_path(each_engine: EngineLake, tmp_path: Path) -> None:
    ingest_trades(each_engine, tmp_path, range(100, 103), extra="never,1,1,1\n")
    each_engine.refresh(MINUTE)
    each_engine.rebuild(find_timeframe("1d"))
    each_engine.refresh_tables(*TIMEFRAMES)
    retention(each_engine.lake, POLICY, apply=True, now=datetime.now(UTC) + DAY)


def list_committing_modules() -> set[str]:
    return {
        str(path)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "commit_transaction"
    }


def test_pyiceberg_retries_no_commit(ten_days: EngineLake, commits: Commits, tmp_path: Path) -> None:
    """Every second commit fails. Each transaction of every module reaches the catalog once."""

    def fail(_: Table, call: int) -> None:
        if call % 2:
            raise CommitFailedException("made to fail")

    commits.before = fail
    every_path(ten_days, tmp_path)
    assert commits.failed > 10
    assert len(commits.bases) == len(commits.transactions)
    package_modules = {path for path in commits.transactions if Path(path).is_relative_to(PACKAGE)}
    assert package_modules == set(commits.transactions) == list_committing_modules()
    assert {name for name, _ in commits.bases} == {
        TRADES_SPEC.name,
        REJECTED_SPEC.name,
        *(t.table for t in TIMEFRAMES),
    }


def test_the_next_attempt_has_a_new_base(ten_days: EngineLake, commits: Commits, tmp_path: Path) -> None:
    """The snapshot that moved the base is the base of the next attempt."""
    new_bases: dict[int, int] = {}

    def move_base(table: Table, call: int) -> None:
        if call % 2:
            other = ten_days.lake.catalog.load_table(table.name())
            producer = other.transaction()
            with producer.update_snapshot().fast_append():
                pass
            producer.commit_transaction()
            new_bases[call] = other.metadata.current_snapshot_id or 0

    commits.before = move_base
    every_path(ten_days, tmp_path)
    assert len(commits.bases) == len(commits.transactions)
    next_attempts = [
        (new_bases[call], base, name)
        for call, (name, base) in enumerate(commits.bases[1:], start=1)
        if call in new_bases and commits.bases[call - 1][0] == name
    ]
    assert len(next_attempts) > 10
    assert [(is_at, name) for was, is_at, name in next_attempts] == [
        (was, name) for was, is_at, name in next_attempts
    ]


def test_attempts_are_counted_by_this_project(ten_days: EngineLake, commits: Commits, tmp_path: Path) -> None:
    """If no commit succeeds, the catalog is called as often as this project tries."""

    def fail(table: Table, call: int) -> None:
        raise CommitFailedException("made to fail")

    commits.before = fail
    with pytest.raises(Exception, match="20 attempts"):
        ingest_trades(ten_days, tmp_path, range(100, 103))
    assert len(commits.bases) == append.MAX_APPEND_ATTEMPTS
    commits.bases.clear()
    with pytest.raises(Exception, match="8 attempts"):
        retention(ten_days.lake, POLICY, apply=True)
    assert len(commits.bases) == retry.MAX_ATTEMPTS


def test_pyiceberg_retries_without_our_property(lake: Lake, commits: Commits) -> None:
    """The tests above can fail: a table without the property is retried."""
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
    """A table that another process created first is used as it is."""
    real, calls = SqlCatalog.create_table, []

    def create_table(catalog: SqlCatalog, *args: Any, **options: Any) -> Table:
        calls.append(args[0])
        real(catalog, *args, **options)
        raise TableAlreadyExistsError("made to fail")

    monkeypatch.setattr(SqlCatalog, "create_table", create_table)
    table = lake.writable_trades()
    assert calls == [TRADES_SPEC.identifier]
    assert table.properties["commit.retry.num-retries"] == "0"

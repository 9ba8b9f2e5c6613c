"""Removing bad trades, and making a market's span equal to a file: candles follow, other trades stay."""

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from k2_ohlcv.cli.main import main
from k2_ohlcv.domain.candle import Trade
from k2_ohlcv.domain.errors import BadFileError, MissingTradesError, UsageError
from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake import replace_rows as lake_corrections
from k2_ohlcv.lake import retry
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.history_bounds import FROZEN_BEFORE
from k2_ohlcv.lake.schemas import NAMESPACE, TRADES_SPEC
from k2_ohlcv.operations.delete_trades import Selection, delete_trades
from k2_ohlcv.operations.ingest import ingest
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv.operations.replace_trades import replace_trades
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.engine_lake import EngineLake
from k2_ohlcv_tests.support.trades import make_trade

AT = datetime(2024, 8, 8, 12, tzinfo=UTC)
MARKET = ("E", "S")
MINUTE, DAILY = find_timeframe("1m"), find_timeframe("1d")
HEADER = "timestamp,price,quantity,trade_id,exchange,symbol\n"
Write = Callable[..., Path]


def trade(number: int, symbol: str = "S", **values: Any) -> Trade:
    made = make_trade(number, AT + timedelta(hours=number), number + 1, 1, market=("E", symbol))
    return replace(made, **values)


SOME = [trade(n, symbol) for n in range(40) for symbol in ("S", "T")]


def text(trades: Iterable[Trade]) -> str:
    return HEADER + "".join(
        f"{t.timestamp.isoformat()},{t.price},{t.quantity},{t.trade_id},{t.exchange},{t.symbol}\n"
        for t in trades
    )


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def call(trades: Iterable[Trade], more: str = "") -> Path:
        path = tmp_path / "trades.csv"
        path.write_text(text(trades) + more)
        return path

    return call


@pytest.fixture
def full(lake: Lake, write: Write, tmp_path: Path) -> Lake:
    """A lake with trades of two markets over two days."""
    ingest(lake, [write(SOME)], workspace=tmp_path / "work")
    return lake


def stored(lake: Lake) -> list[Trade]:
    rows = lake.trades().scan().to_arrow().drop_columns(["ingested_at"]).to_pylist()
    return sorted((Trade(**row) for row in rows), key=order)


def order(one: Trade) -> tuple[str, str, datetime, int, str]:
    return one.exchange, one.symbol, one.timestamp, len(one.trade_id), one.trade_id


def in_order(trades: Iterable[Trade]) -> list[Trade]:
    return sorted(trades, key=order)


def recorded(lake: Lake) -> list[tuple[str, str]]:
    rows = lake.rejected().scan().to_arrow().to_pylist()
    return sorted((row["symbol"], row["raw"].rpartition(",")[2]) for row in rows)


def snapshots(lake: Lake) -> int:
    return len(lake.trades().snapshots())


def swap(lake: Lake, path: Path, tmp_path: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"workspace": tmp_path / "work", "apply": True} | options
    return replace_trades(lake, path, **given)


@pytest.mark.parametrize(
    ("chosen", "goes"),
    [
        (Selection(MARKET), lambda t: t.symbol == "S"),
        (Selection(MARKET, ids=("3", "30", "99")), lambda t: t.symbol == "S" and t.trade_id in {"3", "30"}),
        (Selection(interval=Interval(AT, AT + timedelta(hours=2))), lambda t: int(t.trade_id) < 2),
        (
            Selection(MARKET, Interval(AT + timedelta(hours=9), AT + timedelta(hours=20)), ("9", "19", "20")),
            lambda t: t.symbol == "S" and t.trade_id in {"9", "19"},
        ),
        (Selection(("E", "none")), lambda t: False),
    ],
)
def test_what_is_deleted_is_recorded_and_all_else_stays(
    full: Lake, chosen: Selection, goes: Callable[[Trade], bool]
) -> None:
    """In one snapshot, after a dry run that says the same and changes nothing."""
    wanted = [t for t in SOME if not goes(t)]
    dry = delete_trades(full, chosen, apply=False)
    assert (stored(full), snapshots(full), recorded(full)) == (in_order(SOME), 1, [])
    done = delete_trades(full, chosen, reason="bad tick", apply=True)
    assert stored(full) == in_order(wanted)
    assert (dry.removed, dry.removed_per_day) == (done.removed, done.removed_per_day)
    assert done.removed == len(SOME) - len(wanted)
    assert snapshots(full) == 1 + bool(done.removed)
    assert recorded(full) == sorted((t.symbol, t.trade_id) for t in SOME if goes(t))
    assert {r["reason"] for r in full.rejected().scan().to_arrow().to_pylist()} <= {"bad tick"}
    assert delete_trades(full, chosen, apply=True).removed == 0
    assert snapshots(full) == 1 + bool(done.removed)


def test_a_selection_says_something_and_ids_say_whose() -> None:
    with pytest.raises(UsageError, match="--exchange and --symbol"):
        Selection()
    with pytest.raises(UsageError, match="unique in its market"):
        Selection(ids=("1",))


def test_neither_touches_trades_behind_the_frozen_line_nor_someone_elses(
    full: Lake, write: Write, tmp_path: Path
) -> None:
    with full.trades().transaction() as change:
        change.set_properties({FROZEN_BEFORE: (AT + timedelta(hours=12)).isoformat()})
    with pytest.raises(UsageError, match=r"k2\.frozen-before"):
        delete_trades(full, Selection(MARKET, ids=("3",)), apply=True)
    with pytest.raises(UsageError, match=r"k2\.frozen-before"):
        swap(full, write([trade(3), trade(30)]), tmp_path)
    assert delete_trades(full, Selection(MARKET, ids=("30",)), apply=True).removed == 1
    theirs = Lake(full.catalog, ExternalTradesConfig(("market_data", "gold_crypto_trades")))
    with pytest.raises(UsageError, match="never written to"):
        delete_trades(theirs, Selection(MARKET), apply=False)
    with pytest.raises(UsageError, match="never written to"):
        swap(theirs, write([trade(30)]), tmp_path)
    assert recorded(full) == [("S", "30")]


def test_a_file_replaces_its_market_and_span_in_one_commit(full: Lake, write: Write, tmp_path: Path) -> None:
    """Changed, missing and new trades; equal ones keep their clock; the second time nothing is committed."""
    clocks = {
        (r["symbol"], r["trade_id"]): r["ingested_at"] for r in full.trades().scan().to_arrow().to_pylist()
    }
    revised = [trade(n) for n in range(5, 31) if n % 7]
    revised[3] = replace(revised[3], price=Decimal("77.5"))
    revised.append(trade(1000, timestamp=AT + timedelta(hours=6, microseconds=1)))
    wanted = [t for t in SOME if t.symbol == "T" or not 5 <= int(t.trade_id) <= 30] + revised
    path = write(revised)
    dry = swap(full, path, tmp_path, apply=False)
    assert stored(full) == in_order(SOME)
    done = swap(full, path, tmp_path)
    assert stored(full) == in_order(wanted)
    assert (done.removed, done.added, done.unchanged) == (dry.removed, dry.added, dry.unchanged) == (5, 2, 21)
    assert snapshots(full) == 2
    assert recorded(full) == sorted(("S", str(n)) for n in (7, 14, 21, 28, int(revised[3].trade_id)))
    after = {
        (r["symbol"], r["trade_id"]): r["ingested_at"] for r in full.trades().scan().to_arrow().to_pylist()
    }
    changed = {key for key, clock in after.items() if clocks.get(key) != clock}
    assert changed == {("S", "1000"), ("S", revised[3].trade_id)}
    again = swap(full, path, tmp_path)
    assert (again.removed, again.added, again.snapshot, snapshots(full)) == (0, 0, None, 2)


@settings(max_examples=10)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 3)), min_size=1, max_size=25, unique_by=lambda x: x[0]
    ),
    st.integers(1, 9),
)
def test_any_file_gives_its_own_trades_over_its_span(values: list[tuple[int, int]], batch_rows: int) -> None:
    """Whatever is stored there, and in pieces of any size."""
    with tempfile.TemporaryDirectory() as folder:
        lake = lakes.open_lake(Path(folder))
        path = Path(folder, "t.csv")
        path.write_text(text(SOME))
        ingest(lake, [path], workspace=Path(folder, "work"))
        revised = [trade(n, price=Decimal(n + p)) for n, p in values]
        first, last = min(t.timestamp for t in revised), max(t.timestamp for t in revised)
        path.write_text(text(revised))
        swap(lake, path, Path(folder), batch_rows=batch_rows)
        stay = [t for t in SOME if t.symbol == "T" or not first <= t.timestamp <= last]
        assert stored(lake) == in_order(stay + revised)
        lake.catalog.close()


def test_a_file_comes_into_an_empty_lake(lake: Lake, write: Write, tmp_path: Path) -> None:
    """Nothing is stored, so nothing goes."""
    assert delete_trades(lake, Selection(MARKET), apply=True).removed == 0
    path = write([trade(1), trade(2)])
    assert (swap(lake, path, tmp_path, apply=False).added, lake.trades().current_snapshot()) == (2, None)
    assert swap(lake, path, tmp_path).added == 2
    assert stored(lake) == [trade(1), trade(2)]
    assert recorded(lake) == []


def test_trades_without_ids_are_replaced_too(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    options = {"exchange": "E", "symbol": "S", "workspace": tmp_path / "work"}
    path.write_text(
        "timestamp,price,amount\n1723075200,1,1\n1723075200,1,1\n1723075201,2,1\n1723075202,3,1\n"
    )
    ingest(lake, [path], **options)  # type: ignore[arg-type]
    assert swap(lake, path, tmp_path, **options).snapshot is None
    path.write_text("timestamp,price,amount\n1723075200,1,1\n1723075201,2.5,1\n1723075202,3,1\n")
    done = swap(lake, path, tmp_path, **options)
    assert (done.removed, done.added, done.unchanged) == (2, 1, 2)
    assert [t.price for t in stored(lake)] == [1, Decimal("2.5"), 3]


def test_files_that_would_replace_too_much_are_refused(full: Lake, write: Write, tmp_path: Path) -> None:
    """Several markets, rows that are none, ids twice, ids stored elsewhere: nothing is changed."""
    with pytest.raises(UsageError, match=r"2 markets \(E/S, E/T\)"):
        swap(full, write(SOME[:4]), tmp_path)
    with pytest.raises(BadFileError, match=r"1 rows cannot be trades.*--skip-rejected"):
        swap(full, write([trade(1), trade(3)], f"{AT.isoformat()},0,1,x,E,S\n"), tmp_path)
    with pytest.raises(BadFileError, match="1 rows cannot be trades"):
        swap(full, write([trade(1), trade(3), trade(3, price=Decimal(9))]), tmp_path)
    with pytest.raises(BadFileError, match="1 ids occur again"):
        swap(full, write([trade(1), trade(2), trade(1, timestamp=AT)]), tmp_path, batch_rows=1)
    with pytest.raises(UsageError, match=r"outside of its span, 1 .*\(3\)"):
        swap(full, write([trade(3, timestamp=AT)]), tmp_path)
    with pytest.raises(BadFileError, match="no row of the file is a trade"):
        swap(full, write([], "x,1,1,1,E,S\n"), tmp_path)
    assert (stored(full), snapshots(full), recorded(full)) == (in_order(SOME), 1, [])
    path = write([trade(1), trade(3)], f"{AT.isoformat()},0,1,x,E,S\n")
    report = swap(full, path, tmp_path, skip_rejected=True)
    assert (report.removed, report.added, report.rejected) == (1, 0, 1)
    assert recorded(full) == [("S", "2"), ("S", "S")]  # a row of the file is kept as its text was


def test_a_lost_race_starts_over_and_a_crash_loses_no_record(
    full: Lake, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another writer added meanwhile is seen; the record comes before the commit, and once."""
    monkeypatch.setattr(retry, "_MIN_PAUSE", 0.0)
    commit, calls = lake_corrections.commit_change, []

    def raced(table: Table, change: Any) -> Table:
        calls.append(recorded(full))
        if len(calls) == 1:
            ingest(full, [write([trade(50), trade(51)])], workspace=tmp_path / "work")
        return commit(table, change)

    monkeypatch.setattr(lake_corrections, "commit_change", raced)
    chosen = Selection(MARKET, Interval(AT + timedelta(hours=38), AT + timedelta(hours=51)))
    assert delete_trades(full, chosen, apply=True).removed == 3
    assert calls == [[("S", "38"), ("S", "39")], [("S", "38"), ("S", "39"), ("S", "50")]]
    assert [t.trade_id for t in stored(full) if t.symbol == "S"][-2:] == ["37", "51"]

    def dies(*_: object) -> Table:
        raise CommitFailedException("killed")

    monkeypatch.setattr(lake_corrections, "commit_change", dies)
    monkeypatch.setattr(retry, "CONFLICT_ERRORS", ())
    with pytest.raises(CommitFailedException):
        delete_trades(full, Selection(MARKET, ids=("1",)), apply=True)
    assert ("S", "1") in recorded(full)
    monkeypatch.setattr(lake_corrections, "commit_change", commit)
    before = recorded(full)
    assert delete_trades(full, Selection(MARKET, ids=("1",)), apply=True).removed == 1
    assert recorded(full) == before


def test_candles_follow_corrections(sail: EngineLake, tmp_path: Path, write: Write) -> None:
    """A refresh after a deletion and a replacement gives the candles of what is stored then."""
    ingest(sail.lake, [write(SOME)], workspace=tmp_path / "work")
    for each in (MINUTE, DAILY):
        refresh(sail.lake, sail.engine, each)
    delete_trades(sail.lake, Selection(MARKET, ids=("2", "39")), apply=True)
    swap(sail.lake, write([trade(n, "T", price=Decimal(5)) for n in range(10, 20)]), tmp_path)
    for each in (MINUTE, DAILY):
        refresh(sail.lake, sail.engine, each)
    lakes.assert_equal_to_trades(sail.lake, stored(sail.lake), (MINUTE, DAILY))
    assert len(stored(sail.lake)) == len(SOME) - 2


def test_missing_trades_are_neither_corrected_nor_created(
    sail: EngineLake, tmp_path: Path, write: Write
) -> None:
    """While the trades table is renamed, corrections refuse. An ingestion of bad files creates no table."""
    lakes.add_trades(sail.lake, SOME)
    refresh(sail.lake, sail.engine, find_timeframe("1m"))
    away = (NAMESPACE, "away")
    sail.lake.catalog.rename_table(TRADES_SPEC.identifier, away)
    chosen = Selection(market=("E", "S"))
    for apply in (False, True):
        with pytest.raises(MissingTradesError):
            delete_trades(sail.lake, chosen, apply=apply)
        with pytest.raises(MissingTradesError):
            swap(sail.lake, write(SOME[:1]), tmp_path, apply=apply)
    with pytest.raises(BadFileError):
        ingest(sail.lake, [tmp_path / "nowhere.csv"], workspace=tmp_path / "work")
    assert ingest(sail.lake, [write([], "x\n")], workspace=tmp_path / "work").rejected == 1
    sail.lake.catalog.rename_table(away, TRADES_SPEC.identifier)
    refresh(sail.lake, sail.engine, find_timeframe("1m"))
    lakes.assert_equal_to_trades(sail.lake, SOME, [find_timeframe("1m")])


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["trades", *arguments])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


@pytest.mark.parametrize(
    ("options", "goes"),
    [
        (("--from", "9999-12-31"), {"far", "last"}),
        (("--from", "9999-01-01", "--to", "9999-12-31T23:59:59"), {"far"}),
        (("--from", "2200-06-01"), {"far", "last"}),
        (("--to", "1970-01-01"), {"old"}),
        (("--from", "1969-05-01", "--to", "1969-05-02"), {"old"}),
        (("--to", "1900-01-01"), {"older"}),
    ],
)
def test_trades_of_impossible_times_are_deleted_by_their_times(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    goes: set[str],
) -> None:
    """No candle has them, and the check that names them is green only once they are gone."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    lake, last = lakes.open_lake(tmp_path), datetime.max.replace(tzinfo=UTC)
    old, far = datetime(1969, 5, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
    times = {"old": old, "older": old.replace(year=1800), "far": far, "last": last, "good": AT}
    for name, at in times.items():
        if name != "older" or goes == {"older"}:
            lakes.add_trades(lake, [trade(1, trade_id=name, timestamp=at)])
    code, _, _ = run(capsys, "delete", *options, "--apply")
    left = set(lake.trades().scan().to_arrow()["trade_id"].to_pylist())
    assert (code, left) == (0, {*times} - goes - ({"older"} - goes))


_WRONG = (
    ("delete",),
    ("delete", "--exchange", "E"),
    ("delete", "--from", "x"),
    ("delete", "--from", "0001-01-01T00:00+14:00"),
    ("delete", "--to", "9999-12-31T23:00-10:00"),
)


def test_the_commands(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dry unless --apply; --json is one object; wrong use exits with 2, a file that will not do with 1."""
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    lake = lakes.open_lake(tmp_path)
    ingest(lake, [write(SOME)], workspace=tmp_path / "work")
    market = ("--exchange", "E", "--symbol", "S")
    code, out, _ = run(capsys, "delete", *market, "--id", "1", "--id", "2")
    assert (code, len(stored(lake))) == (0, 80)
    assert "2 trades go" in out
    assert "dry run" in out
    assert "E S 2024-08-08T13:00:00+00:00,2.00000000,1.00000000,1" in out
    code, out, _ = run(
        capsys, "delete", *market, "--from", "2024-08-09", "--reason", "test", "--apply", "--json"
    )
    assert (code, len(stored(lake))) == (0, 80 - 28)
    shown = json.loads(out)
    assert (shown["applied"], shown["removed"], shown["files_rewritten"]) == (True, 28, 2)
    assert [(day["day"], day["removed"], day["added"]) for day in shown["days"]] == [
        ("2024-08-09", 24, 0),
        ("2024-08-10", 4, 0),
    ]
    code, out, _ = run(capsys, "replace", str(write([trade(1), trade(3)])), "--apply")
    assert (code, len(stored(lake))) == (0, 80 - 28 - 1)
    for wrong in _WRONG:
        code, _, err = run(capsys, *wrong)
        assert (code, "error" in err) == (2, True)
    code, _, err = run(capsys, "replace", str(write([], "x\n")))
    assert code == 1

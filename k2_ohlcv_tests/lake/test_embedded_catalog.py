"""The embedded catalog under homes of all names, and in one that several processes make at once."""

import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.engine.session import open_engine
from k2_ohlcv.lake.embedded_catalog import embedded_properties
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv.operations.retention import retention
from k2_ohlcv.settings import _WITH_SPACE, _WITHOUT_SPACE, Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
TRADE = make_trade("1", datetime(2024, 3, 1, 12, tzinfo=UTC), 3, 2, market=("X", "Y"))


@pytest.mark.parametrize("allowed", [_WITH_SPACE, _WITHOUT_SPACE], ids=["with a space", "without"])
def test_a_home_of_any_allowed_name_holds_all_and_nothing_goes_beside_it(
    tmp_path: Path, allowed: str
) -> None:
    home = tmp_path / f"a{allowed.replace('/', '')}b"
    lake = lakes.open_lake(home)
    lake.writable_trades()
    lakes.add_trades(lake, [TRADE])
    with open_engine(lakes.lake_settings(home)) as engine:
        refresh(lake, engine, MINUTE)
    lakes.assert_equal_to_trades(lake, [TRADE], [MINUTE])
    old = home / "warehouse/market_data" / MINUTE.table / "metadata" / "left.avro"
    old.write_bytes(b"x")
    retention(lake, Settings.from_environ({}).retention, apply=True, now=datetime(2024, 3, 2, tzinfo=UTC))
    assert list(tmp_path.iterdir()) == [home]
    assert lakes.open_lake(home).trades().scan().to_arrow().num_rows == 1


@pytest.mark.parametrize("character", '#%?ü"\\{}<>`\t\n日')
def test_a_character_that_cannot_work_is_refused_by_name(tmp_path: Path, character: str) -> None:
    with pytest.raises(
        UsageError, match=r"K2_HOME=.* has .* in its path, and .*: choose a path without"
    ) as raised:
        lakes.lake_settings(tmp_path / f"a{character}b")
    assert repr(character) in str(raised.value)


def test_where_no_table_lies_under_the_home_only_dagster_is_asked(tmp_path: Path) -> None:
    remote = {"PYICEBERG_CATALOG__K2__URI": "http://127.0.0.1:8181"}
    assert lakes.lake_settings(tmp_path / "aüb", **remote).home == tmp_path / "aüb"
    with pytest.raises(UsageError, match=r"K2_HOME=.*'\?' in its path, and Dagster cannot"):
        lakes.lake_settings(tmp_path / "a?b", **remote)
    with pytest.raises(UsageError, match=r"DAGSTER_HOME=.*'%' in its path, and Dagster cannot"):
        lakes.lake_settings(tmp_path, DAGSTER_HOME="/tmp/100%")


def test_a_lake_of_before_is_where_it_was(tmp_path: Path) -> None:
    """The locations of a plain home are as they have always been."""
    properties = embedded_properties(lakes.lake_settings(tmp_path))
    assert properties["warehouse"] == (tmp_path / "warehouse").as_uri()
    assert properties["uri"].startswith(f"sqlite:///{tmp_path}/catalog.db?")


def make(home: Path, barrier: object, failures: "multiprocessing.Queue[str]") -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        lake = lakes.open_lake(home)
        lake.writable_trades()
        failures.put("")
    except Exception as error:
        failures.put(repr(error))


def test_four_processes_make_a_fresh_home_together(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    for attempt in range(3):
        barrier, failures = spawn.Barrier(4), spawn.Queue()
        arguments = (tmp_path / f"home-{attempt}", barrier, failures)
        processes = [spawn.Process(target=make, args=arguments) for _ in range(4)]
        for process in processes:
            process.start()
        assert [failures.get(timeout=120) for _ in processes] == [""] * 4
        for process in processes:
            process.join()

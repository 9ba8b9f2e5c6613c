"""The embedded catalog: allowed paths of the home, and creation by several processes."""

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
def test_a_home_of_any_allowed_name_contains_every_file(tmp_path: Path, allowed: str) -> None:
    """Ingestion, refresh and retention work, and no file is written beside the home."""
    home = tmp_path / f"a{allowed.replace('/', '')}b"
    lake = lakes.open_lake(home)
    lake.writable_trades()
    lakes.add_trades(lake, [TRADE])
    with open_engine(lakes.lake_settings(home)) as engine:
        refresh(lake, engine, MINUTE)
    lakes.assert_equal_to_trades(lake, [TRADE], [MINUTE])
    orphan = home / "warehouse/market_data" / MINUTE.table / "metadata" / "left.avro"
    orphan.write_bytes(b"x")
    retention(lake, Settings.from_environ({}).retention, apply=True, now=datetime(2024, 3, 2, tzinfo=UTC))
    assert list(tmp_path.iterdir()) == [home]
    assert lakes.open_lake(home).trades().scan().to_arrow().num_rows == 1


@pytest.mark.parametrize("character", '#%?ü"\\{}<>`\t\n日')
def test_a_forbidden_character_is_named(tmp_path: Path, character: str) -> None:
    """The error shows the character."""
    with pytest.raises(
        UsageError, match=r"K2_HOME=.* has .* in its path, and .*: choose a path without"
    ) as error:
        lakes.lake_settings(tmp_path / f"a{character}b")
    assert repr(character) in str(error.value)


def test_with_a_remote_catalog_only_dagsters_rules_apply(tmp_path: Path) -> None:
    """Without tables under the home, the path must only be valid for Dagster."""
    remote = {"PYICEBERG_CATALOG__K2__URI": "http://127.0.0.1:8181"}
    assert lakes.lake_settings(tmp_path / "aüb", **remote).home == tmp_path / "aüb"
    with pytest.raises(UsageError, match=r"K2_HOME=.*'\?' in its path, and Dagster cannot"):
        lakes.lake_settings(tmp_path / "a?b", **remote)
    with pytest.raises(UsageError, match=r"DAGSTER_HOME=.*'%' in its path, and Dagster cannot"):
        lakes.lake_settings(tmp_path, DAGSTER_HOME="/tmp/100%")


def test_locations_of_a_plain_home_are_stable(tmp_path: Path) -> None:
    """Lakes of earlier versions are found at the same locations."""
    properties = embedded_properties(lakes.lake_settings(tmp_path))
    assert properties["warehouse"] == (tmp_path / "warehouse").as_uri()
    assert properties["uri"].startswith(f"sqlite:///{tmp_path}/catalog.db?")


def create_table(home: Path, barrier: object, failures: "multiprocessing.Queue[str]") -> None:
    """Create a table at the same time as other processes, and report the error."""
    barrier.wait()  # type: ignore[attr-defined]
    try:
        lake = lakes.open_lake(home)
        lake.writable_trades()
        failures.put("")
    except Exception as error:
        failures.put(repr(error))


def test_four_processes_create_a_home_together(tmp_path: Path) -> None:
    """No process fails."""
    spawn = multiprocessing.get_context("spawn")
    for attempt in range(3):
        barrier, failures = spawn.Barrier(4), spawn.Queue()
        arguments = (tmp_path / f"home-{attempt}", barrier, failures)
        processes = [spawn.Process(target=create_table, args=arguments) for _ in range(4)]
        for process in processes:
            process.start()
        assert [failures.get(timeout=120) for _ in processes] == [""] * 4
        for process in processes:
            process.join()

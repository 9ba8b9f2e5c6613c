"""The catalog is lost, or older than the warehouse, and is restored from the warehouse."""

import shutil
from pathlib import Path

import pytest
from pyiceberg.catalog import load_catalog

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.catalog_pointer import read_pointers, sql_catalog
from k2_ohlcv.lake.external_trades import ExternalTradesConfig
from k2_ohlcv.lake.schemas import NAMESPACE, TRADES_TABLE
from k2_ohlcv.operations.pointer_move import ABSENT, KEEP, MOVE, REFUSED, REGISTER
from k2_ohlcv.operations.restore_catalog import restore_catalog
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.candles import MINUTE
from k2_ohlcv_tests.support.daily_candles import trades_of_days
from k2_ohlcv_tests.support.lost_catalog import (
    TABLES,
    Reopen,
    actions,
    commit_days,
    contents,
    lose_catalog,
    newest,
    restore,
)


def test_an_empty_warehouse_has_nothing_to_restore(lake: Lake) -> None:
    steps = restore(lake)
    assert len(steps) == 7
    assert {step.action for step in steps.values()} == {ABSENT}
    assert not lake.catalog.namespace_exists(NAMESPACE)


@pytest.mark.each_store("files", "s3")
def test_a_lost_catalog_is_restored_from_the_newest_metadata(
    lake: Lake, reopen: Reopen, tmp_path: Path
) -> None:
    """A dry run changes nothing. The tables are then as before, and writers continue."""
    commit_days(lake, 0, 4)
    before, files = contents(lake), [newest(lake.trades()), newest(lake.candles(MINUTE))]
    lose_catalog(lake, tmp_path)
    lost = reopen()
    assert actions(lost, apply=False) == (REGISTER, REGISTER)
    assert read_pointers(sql_catalog(lost.catalog)) == {}
    steps = restore(lost)
    assert [steps[table].after for table in TABLES] == files
    assert (steps[TRADES_TABLE].rows, steps[MINUTE.table].rows) == (12, 12)
    assert contents(reopen()) == before
    assert actions(lost) == (KEEP, KEEP)
    commit_days(lost, 4, 5)
    lakes.assert_equal_to_trades(lost, trades_of_days(5), [MINUTE])


@pytest.mark.each_store("files", "s3")
@pytest.mark.parametrize("commits", [1, 3, 30], ids=["one", "in the log", "older than the log"])
def test_an_old_catalog_moves_forward_and_never_back(
    lake: Lake, reopen: Reopen, tmp_path: Path, commits: int
) -> None:
    """Beyond 20 commits the file that the old catalog names is deleted."""
    commit_days(lake, 0, 2)
    shutil.copy(tmp_path / "catalog.db", tmp_path / "old.db")
    commit_days(lake, 2, 2 + commits)
    before, files = contents(lake), [newest(lake.trades()), newest(lake.candles(MINUTE))]
    lake.catalog.close()
    shutil.copy(tmp_path / "old.db", tmp_path / "catalog.db")
    old = reopen()
    pointers = read_pointers(sql_catalog(old.catalog))
    assert actions(old, apply=False) == (MOVE, MOVE)
    assert read_pointers(sql_catalog(old.catalog)) == pointers
    steps = restore(old)
    assert [steps[table].after for table in TABLES] == files
    assert any("the warehouse has version" in note for note in steps[TRADES_TABLE].notes)
    assert contents(reopen()) == before
    assert actions(reopen()) == (KEEP, KEEP)


def test_commits_on_an_old_catalog_are_another_line_and_refused(
    lake: Lake, reopen: Reopen, tmp_path: Path
) -> None:
    """The catalog's own commits would be lost, so a person decides."""
    commit_days(lake, 0, 2)
    shutil.copy(tmp_path / "catalog.db", tmp_path / "old.db")
    commit_days(lake, 2, 6)
    lake.catalog.close()
    shutil.copy(tmp_path / "old.db", tmp_path / "catalog.db")
    commit_days(reopen(), 8, 9)
    before = contents(reopen())
    steps = restore(reopen())
    assert steps[TRADES_TABLE].action == REFUSED
    assert "another line of commits" in steps[TRADES_TABLE].notes[0]
    assert contents(reopen()) == before


def test_two_folders_of_a_table_need_a_choice(lake: Lake, reopen: Reopen, tmp_path: Path) -> None:
    """A writer made new tables beside the lost ones. Their folders are named, and one is given."""
    commit_days(lake, 0, 3)
    before, location = contents(lake), lake.trades().location()
    lose_catalog(lake, tmp_path)
    late = reopen()
    lakes.add_trades(late, trades_of_days(9)[-3:])
    beside = restore(reopen())
    assert beside[TRADES_TABLE].action == KEEP
    assert any(f"--location {location}" in note for note in beside[TRADES_TABLE].notes)
    lose_catalog(late, tmp_path)
    steps = restore(reopen())
    assert steps[TRADES_TABLE].action == REFUSED
    assert location in steps[TRADES_TABLE].notes[0]
    assert actions(reopen(), locations=[f"{location}/"]) == (REGISTER, KEEP)
    assert contents(reopen()) == before


def test_a_pointer_to_a_torn_file_is_refused(lake: Lake, reopen: Reopen) -> None:
    """The newest good file is older than the pointer, which never moves back."""
    commit_days(lake, 0, 3)
    path = newest(lake.trades())
    lakes.write_file(lake.trades(), path, b"{")
    steps = restore(reopen())
    assert steps[TRADES_TABLE].action == REFUSED
    assert "that file is torn" in steps[TRADES_TABLE].notes[0]
    assert read_pointers(sql_catalog(lake.catalog))[TRADES_TABLE] == path


def test_an_external_trades_table_is_not_touched(lake: Lake, reopen: Reopen, tmp_path: Path) -> None:
    commit_days(lake, 0, 2)
    lose_catalog(lake, tmp_path)
    lost = reopen()
    external = Lake(lost.catalog, ExternalTradesConfig((NAMESPACE, TRADES_TABLE), ()))
    steps = restore(external)
    assert TRADES_TABLE not in steps
    assert [*read_pointers(sql_catalog(lost.catalog))] == [MINUTE.table]


def test_a_catalog_server_restores_itself(lake: Lake, tmp_path: Path) -> None:
    memory = load_catalog("k2", type="in-memory", warehouse=str(tmp_path))
    assert actions(Lake(memory)) == (ABSENT, ABSENT)
    with pytest.raises(UsageError, match="not a SQL catalog"):
        restore_catalog(Lake(_Server("k2")), apply=True)  # type: ignore[arg-type]


class _Server:
    """A catalog that is not SQL."""

    def __init__(self, name: str) -> None:
        self.name = name

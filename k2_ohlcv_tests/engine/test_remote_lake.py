"""Sail over a lake on S3: it reads the version that the catalog has, and leaves nothing behind."""

import os
import posixpath
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pyiceberg.table import Table
from structlog.testing import capture_logs

from k2_ohlcv.domain.retention import ORPHAN_AGE
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.engine import private_metadata
from k2_ohlcv.engine.private_metadata import FOLDER
from k2_ohlcv.engine.session import Engine, open_engine
from k2_ohlcv.engine.trades_reader import read_rows
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.operations.reconcile import refresh
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.servers import S3, configure, variable
from k2_ohlcv_tests.support.trades import make_trade

pytestmark = pytest.mark.xdist_group("s3")

MINUTE = find_timeframe("1m")
AT = datetime(2024, 2, 28, 12, tzinfo=UTC)
SOME = [make_trade(i, AT + timedelta(minutes=i), 1 + i, 1, market=("X", "Y")) for i in range(3)]


@pytest.fixture
def settings(tmp_path: Path, s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a lake in a bucket, said by nothing but the catalog's own properties."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    uri = f"sqlite:///{tmp_path / 'catalog.db'}"
    configure(
        monkeypatch, {"type": "sql", "uri": uri, "warehouse": f"s3://{bucket}/warehouse", **s3.properties()}
    )
    return lakes.lake_settings(tmp_path)


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return Lake.open(settings)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with open_engine(settings) as opened:
        yield opened


def read(engine: Engine, table: Table) -> int:
    snapshot = table.current_snapshot()
    assert snapshot
    return int(read_rows(engine, table, snapshot.snapshot_id).count())


def copies(lake: Lake) -> list[str]:
    return [path for path in lakes.files_of(lake.trades()) if f"/{FOLDER}/" in path]


def leave_orphan(table: Table) -> None:
    """What a writer leaves that lost a race: metadata of the winner's number, without its snapshot."""
    number = posixpath.basename(table.metadata_location).partition("-")[0]
    before = table.metadata.metadata_log[-1].metadata_file
    orphan = f"{table.location()}/metadata/{number}-ffffffff-0000-0000-0000-000000000000.metadata.json"
    with table.io.new_input(before).open() as source, table.io.new_output(orphan).create() as target:
        target.write(source.read())


def test_an_orphan_metadata_file_misleads_no_refresh(lake: Lake, settings: Settings) -> None:
    """Nor does anything of the copies stay, in the store or in the environment."""
    lakes.add_trades(lake, SOME[:1])
    leave_orphan(lakes.add_trades(lake, SOME[1:]))
    known = set(lakes.files_of(lake.trades()))
    with open_engine(settings) as engine:
        refresh(lake, engine, MINUTE)
        assert copies(lake)
    lakes.assert_equal_to_trades(lake, SOME, [MINUTE])
    assert set(lakes.files_of(lake.trades())) == known
    assert not [name for name in os.environ if name.startswith("AWS_")]


def test_copies_go_when_the_work_fails(lake: Lake, settings: Settings) -> None:
    lakes.add_trades(lake, SOME)
    seen: list[str] = []

    def work() -> None:
        with open_engine(settings) as engine:
            read(engine, lake.trades())
            seen.extend(copies(lake))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert seen
    assert not copies(lake)


def test_copies_of_killed_sessions_go_and_those_of_live_ones_stay(
    lake: Lake, engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their age: no session needs one for days."""
    lakes.add_trades(lake, SOME)
    assert read(engine, lake.trades()) == 3
    first = copies(lake)
    with open_engine(settings) as second:
        assert read(second, lake.trades()) == 3
        assert len(copies(lake)) == 2
    assert copies(lake) == first
    monkeypatch.setattr(private_metadata, "ORPHAN_AGE", -ORPHAN_AGE)
    with open_engine(settings) as third:
        assert read(third, lake.trades()) == 3
        assert len(copies(lake)) == 1
        assert copies(lake) != first


def test_where_no_copy_can_be_written_the_table_is_read_where_it_lies(
    lake: Lake, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with keys that may only read the trades."""
    lakes.add_trades(lake, SOME)
    trades = lake.trades()

    def refused(*_: object) -> None:
        raise PermissionError(13, "ACCESS_DENIED during PutObject")

    monkeypatch.setattr(trades.io, "new_output", refused)
    with capture_logs() as logged:
        assert read(engine, trades) == 3
    assert [one["table"] for one in logged] == ["gold_crypto_trades"]


def test_credentials_that_the_catalog_gives_with_a_table_reach_the_engine(
    lake: Lake, settings: Settings, s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As those of a REST catalog: its own configuration says nothing of the store."""
    lakes.add_trades(lake, SOME)
    trades = lake.trades()
    for name in s3.properties():
        monkeypatch.delenv(variable(name))
    with open_engine(settings) as engine:
        assert "AWS_ENDPOINT_URL" not in os.environ
        assert read(engine, trades) == 3
    assert "AWS_ENDPOINT_URL" not in os.environ

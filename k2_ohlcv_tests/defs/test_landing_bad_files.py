"""Bad files in the landing folder: each is reported once, and the good ones beside it come in."""

import json
import os
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.defs import ingest_job, jobs
from k2_ohlcv.defs.sensors import landing as landing_sensor
from k2_ohlcv.defs.sensors import refresh
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.schemas import TRADES_SPEC, TRADES_TABLE
from k2_ohlcv.operations import ingest as ingestion
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.landing import HEADER, Landing, read_trades, requested_files
from k2_ohlcv_tests.support.trades import make_trade

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

MINUTE = find_timeframe("1m")
NOTHING = "No file has come or changed."


@pytest.fixture
def landing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Landing]:
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    for name in ("K2_START_DATE", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    with open_instance(Settings.from_environ()) as instance:
        yield Landing(tmp_path, instance)


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data.description
    assert said.isprintable(), ascii(said)
    return str(said)


def rejected(landing: Landing) -> list[dict[str, Any]]:
    table = lakes.open_lake(landing.folder.parents[2]).rejected()
    rows: list[dict[str, Any]] = table.scan().to_arrow().sort_by("line").to_pylist()
    return rows


def bad_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("träd.csv", HEADER)
    path.write_bytes(path.read_bytes().replace("träd.csv".encode(), b"tr\xff\xfed.csv"))


def bad_parquet(path: Path) -> None:
    pq.write_table(pa.table({"timestamp": [1], "price": [1], "size": [1], "xxxxxx": [1]}), path)
    path.write_bytes(path.read_bytes().replace(b"xxxxxx", b"\xff\xfe\x1b[3m"))


def test_bad_files_are_reported_once_and_the_good_ones_are_in(landing: Landing) -> None:
    """Of every kind, in one batch; the sensor does not ask again until one of them changes."""
    bad_zip(landing.folder / "bad.zip")
    bad_parquet(landing.folder / "bad.parquet")
    odd = Path(os.fsdecode(os.fsencode(landing.folder) + b"/caf\xe9.csv"))
    odd.write_text(HEADER)
    (landing.folder / "passwd.csv").symlink_to("/etc/passwd")
    (landing.folder / "[red]x\x1b[31m.csv").write_bytes(b"ARROW1\x00\x00\x1b[2J")
    os.mkfifo(landing.folder / "pipe.csv")
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.put("better.csv", HEADER, "2024-02-27T02:00:00Z,1,1,b")
    landing.look()
    asked = landing.look()
    assert isinstance(asked, dg.RunRequest)
    json.dumps(asked.run_config, ensure_ascii=False).encode()
    result = landing.run(asked)
    assert not result.success
    said = failure_of(result)
    assert said.startswith("6 of 8 files failed")
    for name in ("bad.zip", "bad.parquet", "caf\\xe9.csv", "passwd.csv", "[red]x\\x1b[31m.csv", "pipe.csv"):
        assert said.count(name) == 1, name
    assert read_trades(landing) == ["a", "b"]
    assert [landing.look(), landing.look()] == [NOTHING] * 2
    landing.put("good.csv", HEADER, "2024-02-27T03:00:00Z,1,1,c")
    landing.look()
    asked = landing.look()
    assert requested_files(asked) == ["X/AB/good.csv"]
    assert landing.run(asked).success
    assert read_trades(landing) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "X/AB/link.csv", "a\0b"])
def test_the_job_reads_nothing_outside_landing(landing: Landing, name: str) -> None:
    """Whoever writes its run config: the name is refused, the file beside it is in."""
    (landing.folder / "link.csv").symlink_to("/etc/passwd")
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    config = {"ops": {ingest_job.INGEST_OP: {"config": {"files": [name, "X/AB/good.csv"]}}}}
    job = landing.graph.resolve_job_def(ingest_job.INGEST_FILES_JOB)
    result = job.execute_in_process(config, instance=landing.instance, raise_on_error=False)
    assert not result.success
    said = failure_of(result)
    assert said.startswith("1 of 2 files failed")
    assert "outside the landing folder" in said or "cannot be looked at" in said
    assert "root:" not in said
    assert read_trades(landing) == ["a"]


def test_files_wait_while_the_trades_table_is_missing(landing: Landing) -> None:
    """Renamed for a moment, say: a new one under its name would have the candles removed."""
    lake = lakes.open_lake(landing.folder.parents[2])
    moment = datetime(2024, 2, 27, 1, tzinfo=UTC)
    one = make_trade("1", moment, 1, 1, market=("X", "Y"))
    lakes.commit_candles(lake.writable_candles(MINUTE), MINUTE, [one], moment)
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.look()
    asked = landing.look()
    assert isinstance(asked, dg.RunRequest)
    result = landing.run(asked)
    assert "Restore the trades table" in failure_of(result)
    assert not lake.catalog.table_exists(TRADES_SPEC.identifier)
    run = landing.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert "k2/landing-done" not in run.tags, "it is asked for again"


def test_a_failure_that_is_no_file_s_is_tried_again(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk while rows are kept: the run fails as such, and its files are asked for again."""
    monkeypatch.setattr(refresh, "_MIN_RETRY_DELAY", timedelta(0))
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.look()
    asked = landing.look()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ingestion.SortBuffer, "add", full)
        job = landing.graph.resolve_job_def(ingest_job.INGEST_FILES_JOB)
        assert isinstance(asked, dg.RunRequest)
        tags = {**asked.tags, "k2/interactive": "true"}  # without the minute before a retry
        result = job.execute_in_process(
            asked.run_config, instance=landing.instance, tags=tags, raise_on_error=False
        )
    assert failure_of(result).startswith("the disk is full")
    again = landing.look()
    assert requested_files(again) == requested_files(asked)
    assert landing.run(again).success
    assert read_trades(landing) == ["a"]


def test_an_unterminated_file_comes_in_without_its_last_line_and_is_looked_at_again(
    landing_folder: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut quantity is never stored; the grown file adds the right one, and history stays."""
    path = landing_folder.folder / "t.csv"
    path.write_text(f"{HEADER}\n2024-02-27T01:00:00Z,1,1,a\n2024-02-27T02:00:00Z,1,12")
    landing_folder.look()
    assert landing_folder.run(landing_folder.look()).success
    assert read_trades(landing_folder) == ["a"]
    (row,) = rejected(landing_folder)
    assert (row["line"], row["reason"], row["raw"]) == (3, "unterminated", "2024-02-27T02:00:00Z,1,12")
    assert [landing_folder.look(), landing_folder.look()] == [NOTHING] * 2
    path.write_text(f"{HEADER}\n2024-02-27T01:00:00Z,1,1,a\n2024-02-27T02:00:00Z,1,12.5,b\n")
    landing_folder.look()
    assert landing_folder.run(landing_folder.look()).success
    table = lakes.open_lake(landing_folder.folder.parents[2]).trades().scan().to_arrow().sort_by("trade_id")
    assert [str(value) for value in table["quantity"].to_pylist()] == ["1.00000000", "12.50000000"]
    assert len(rejected(landing_folder)) == 1
    monkeypatch.setattr(landing_sensor, "SETTLE_SECONDS", -1)
    assert [landing_folder.look(), landing_folder.look()] == [NOTHING] * 2, (
        "it is whole: nothing is left to report"
    )


def test_an_unterminated_file_that_stays_so_is_reported_once(
    landing_folder: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten minutes, by a run that fails and names file and line."""
    clock = [1_700_000_000.0]
    monkeypatch.setattr(landing_sensor.time, "time", lambda: clock[0])
    (landing_folder.folder / "t.csv").write_text(
        f"{HEADER}\n2024-02-27T01:00:00Z,1,1,a\n2024-02-27T02:00:00Z,1,1,b"
    )
    landing_folder.put("whole.csv", HEADER, "2024-02-27T03:00:00Z,1,1,c")
    landing_folder.look()
    assert landing_folder.run(landing_folder.look()).success
    clock[0] += landing_sensor.SETTLE_SECONDS - 1
    assert landing_folder.look() == NOTHING
    clock[0] += 1
    asked = landing_folder.look()
    assert requested_files(asked) == ["X/AB/t.csv"]
    said = failure_of(landing_folder.run(asked))
    assert "t.csv: line 3" in said
    assert "has no end of line" in said
    assert read_trades(landing_folder) == ["a", "c"]
    clock[0] += 10 * landing_sensor.SETTLE_SECONDS
    assert [landing_folder.look(), landing_folder.look()] == [NOTHING] * 2
    assert [row["reason"] for row in rejected(landing_folder)] == ["unterminated"]


def test_the_trades_asset_takes_the_good_files(landing: Landing) -> None:
    """A backfill of days beside a bad file: the day is in and materialized; the run fails, naming it."""
    (landing.folder / "bad.csv").write_text("")
    (landing.folder / "out.csv").symlink_to("/etc/passwd")
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    result = landing.graph.resolve_job_def(jobs.INGEST_JOB).execute_in_process(
        instance=landing.instance, partition_key="2024-02-27", raise_on_error=False
    )
    said = failure_of(result)
    assert said.startswith("2 of 3 files failed")
    assert "bad.csv: the file is empty" in said
    assert "out.csv: it lies outside" in said
    assert read_trades(landing) == ["a"]
    (record,) = landing.instance.fetch_materializations(dg.AssetKey(TRADES_TABLE), limit=5).records
    assert record.partition_key == "2024-02-27"
    assert record.asset_materialization.metadata["trades_added"].value == 1


def test_an_odd_folder_does_not_stop_the_tick(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be looked at is reported; the files beside it are asked for."""
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.put("odd.csv", HEADER)
    real = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path.name == "odd.csv":
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    landing.look()
    asked = landing.look()
    assert requested_files(asked) == ["X/AB/good.csv"]
    assert "X/AB/odd.csv: it cannot be looked at: Permission denied" in failure_of(landing.run(asked))


def test_a_cursor_of_before_is_still_read() -> None:
    old = '{"files": {"X/AB/a": ["1-1", true]}, "batch": null, "pending": [], "attempt": 0}'
    assert landing_sensor.LandingCursor.from_cursor(old).files == {
        "X/AB/a": landing_sensor.FileState("1-1", asked=True)
    }

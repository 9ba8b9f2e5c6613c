"""Bad files in the landing folder are reported once, and the good files beside them are ingested."""

import json
import os
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k2_ohlcv.defs import ingest_job, jobs
from k2_ohlcv.defs.sensors import landing as landing_sensor
from k2_ohlcv.defs.sensors import refresh
from k2_ohlcv.domain.timeframe import find_timeframe
from k2_ohlcv.lake.schemas import TRADES_SPEC, TRADES_TABLE
from k2_ohlcv.operations import ingest as ingestion
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.landing import HEADER, Landing, read_trades, requested_files
from k2_ohlcv_tests.support.trades import make_trade

MINUTE = find_timeframe("1m")
NO_CHANGE = "No file is new or changed."


def failure_message(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    message = failure.step_failure_data.user_failure_data.description
    assert message.isprintable(), ascii(message)
    return str(message)


def read_rejected(landing: Landing) -> list[dict[str, Any]]:
    table = lakes.open_lake(landing.folder.parents[2]).rejected()
    rows: list[dict[str, Any]] = table.scan().to_arrow().sort_by("line").to_pylist()
    return rows


def write_bad_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("träd.csv", HEADER)
    path.write_bytes(path.read_bytes().replace("träd.csv".encode(), b"tr\xff\xfed.csv"))


def write_bad_parquet(path: Path) -> None:
    pq.write_table(pa.table({"timestamp": [1], "price": [1], "size": [1], "xxxxxx": [1]}), path)
    path.write_bytes(path.read_bytes().replace(b"xxxxxx", b"\xff\xfe\x1b[3m"))


def test_bad_files_are_reported_once_and_good_files_are_ingested(landing: Landing) -> None:
    """One batch has bad files of every kind. The sensor requests a file again only when it changes."""
    write_bad_zip(landing.folder / "bad.zip")
    write_bad_parquet(landing.folder / "bad.parquet")
    odd = Path(os.fsdecode(os.fsencode(landing.folder) + b"/caf\xe9.csv"))
    odd.write_text(HEADER)
    (landing.folder / "passwd.csv").symlink_to("/etc/passwd")
    (landing.folder / "[red]x\x1b[31m.csv").write_bytes(b"ARROW1\x00\x00\x1b[2J")
    os.mkfifo(landing.folder / "pipe.csv")
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.put("better.csv", HEADER, "2024-02-27T02:00:00Z,1,1,b")
    landing.look()
    request = landing.look()
    assert isinstance(request, dg.RunRequest)
    json.dumps(request.run_config, ensure_ascii=False).encode()
    result = landing.run(request)
    assert not result.success
    message = failure_message(result)
    assert message.startswith("6 of 8 files failed")
    for name in ("bad.zip", "bad.parquet", "caf\\xe9.csv", "passwd.csv", "[red]x\\x1b[31m.csv", "pipe.csv"):
        assert message.count(name) == 1, name
    assert read_trades(landing) == ["a", "b"]
    assert [landing.look(), landing.look()] == [NO_CHANGE] * 2
    landing.put("good.csv", HEADER, "2024-02-27T03:00:00Z,1,1,c")
    landing.look()
    request = landing.look()
    assert requested_files(request) == ["X/AB/good.csv"]
    assert landing.run(request).success
    assert read_trades(landing) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "X/AB/link.csv", "a\0b"])
def test_the_job_reads_no_file_outside_the_landing_folder(landing: Landing, name: str) -> None:
    """A name in the run config that leads outside is refused. The file beside it is ingested."""
    (landing.folder / "link.csv").symlink_to("/etc/passwd")
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    config = {"ops": {ingest_job.INGEST_OP: {"config": {"files": [name, "X/AB/good.csv"]}}}}
    job = landing.graph.resolve_job_def(ingest_job.INGEST_FILES_JOB)
    result = job.execute_in_process(config, instance=landing.instance, raise_on_error=False)
    assert not result.success
    message = failure_message(result)
    assert message.startswith("1 of 2 files failed")
    assert "outside the folder landing" in message or "cannot be read" in message
    assert "root:" not in message
    assert read_trades(landing) == ["a"]


def test_files_wait_while_the_trades_table_is_missing(landing: Landing) -> None:
    """The table may be renamed for a moment. A new empty table would remove all candles."""
    lake = lakes.open_lake(landing.folder.parents[2])
    moment = datetime(2024, 2, 27, 1, tzinfo=UTC)
    trade = make_trade("1", moment, 1, 1, market=("X", "Y"))
    lakes.commit_candles(lake.writable_candles(MINUTE), MINUTE, [trade], moment)
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.look()
    request = landing.look()
    assert isinstance(request, dg.RunRequest)
    result = landing.run(request)
    assert "Restore the trades table" in failure_message(result)
    assert not lake.catalog.table_exists(TRADES_SPEC.identifier)
    run = landing.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert "k2/landing-done" not in run.tags, "the files are requested again"


def test_a_failure_that_no_file_caused_is_tried_again(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk fails the run. The files are requested again."""
    monkeypatch.setattr(refresh, "_MIN_RETRY_DELAY", timedelta(0))
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.look()
    request = landing.look()

    def raise_disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ingestion.SortBuffer, "add", raise_disk_full)
        job = landing.graph.resolve_job_def(ingest_job.INGEST_FILES_JOB)
        assert isinstance(request, dg.RunRequest)
        tags = {**request.tags, "k2/interactive": "true"}  # without the minute before a retry
        result = job.execute_in_process(
            request.run_config, instance=landing.instance, tags=tags, raise_on_error=False
        )
    assert failure_message(result).startswith("the disk is full")
    again = landing.look()
    assert requested_files(again) == requested_files(request)
    assert landing.run(again).success
    assert read_trades(landing) == ["a"]


def test_an_unterminated_file_is_ingested_without_its_last_line_and_again_when_it_grew(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut quantity is never stored. The grown file adds the right quantity."""
    path = landing.folder / "t.csv"
    path.write_text(f"{HEADER}\n2024-02-27T01:00:00Z,1,1,a\n2024-02-27T02:00:00Z,1,12")
    landing.look()
    assert landing.run(landing.look()).success
    assert read_trades(landing) == ["a"]
    (row,) = read_rejected(landing)
    assert (row["line"], row["reason"], row["raw"]) == (3, "unterminated", "2024-02-27T02:00:00Z,1,12")
    assert [landing.look(), landing.look()] == [NO_CHANGE] * 2
    path.write_text(f"{HEADER}\n2024-02-27T01:00:00Z,1,1,a\n2024-02-27T02:00:00Z,1,12.5,b\n")
    landing.look()
    assert landing.run(landing.look()).success
    table = lakes.open_lake(landing.folder.parents[2]).trades().scan().to_arrow().sort_by("trade_id")
    assert [str(value) for value in table["quantity"].to_pylist()] == ["1.00000000", "12.50000000"]
    assert len(read_rejected(landing)) == 1
    monkeypatch.setattr(landing_sensor, "SETTLE_SECONDS", -1)
    assert [landing.look(), landing.look()] == [NO_CHANGE] * 2, "the file is complete: no report is due"


def test_a_file_that_stays_unterminated_is_reported_once(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten minutes a run fails with the name of the file and the line number."""
    clock = [1_700_000_000.0]
    monkeypatch.setattr(landing_sensor.time, "time", lambda: clock[0])
    (landing.folder / "t.csv").write_text(f"{HEADER}\n2024-02-27T01:00:00Z,1,1,a\n2024-02-27T02:00:00Z,1,1,b")
    landing.put("whole.csv", HEADER, "2024-02-27T03:00:00Z,1,1,c")
    landing.look()
    assert landing.run(landing.look()).success
    clock[0] += landing_sensor.SETTLE_SECONDS - 1
    assert landing.look() == NO_CHANGE
    clock[0] += 1
    request = landing.look()
    assert requested_files(request) == ["X/AB/t.csv"]
    message = failure_message(landing.run(request))
    assert "t.csv: line 3" in message
    assert "has no end of line" in message
    assert read_trades(landing) == ["a", "c"]
    clock[0] += 10 * landing_sensor.SETTLE_SECONDS
    assert [landing.look(), landing.look()] == [NO_CHANGE] * 2
    assert [row["reason"] for row in read_rejected(landing)] == ["unterminated"]


def test_the_trades_asset_ingests_the_good_files(landing: Landing) -> None:
    """A backfill materializes the day of the good file. The run fails with the names of the bad files."""
    (landing.folder / "bad.csv").write_text("")
    (landing.folder / "out.csv").symlink_to("/etc/passwd")
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    result = landing.graph.resolve_job_def(jobs.INGEST_JOB).execute_in_process(
        instance=landing.instance, partition_key="2024-02-27", raise_on_error=False
    )
    message = failure_message(result)
    assert message.startswith("2 of 3 files failed")
    assert "bad.csv: the file is empty" in message
    assert "out.csv: it is outside" in message
    assert read_trades(landing) == ["a"]
    (record,) = landing.instance.fetch_materializations(dg.AssetKey(TRADES_TABLE), limit=5).records
    assert record.partition_key == "2024-02-27"
    assert record.asset_materialization.metadata["trades_added"].value == 1


def test_an_unreadable_file_does_not_stop_the_tick(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unreadable file is reported. The files beside it are requested."""
    landing.put("good.csv", HEADER, "2024-02-27T01:00:00Z,1,1,a")
    landing.put("odd.csv", HEADER)
    real = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path.name == "odd.csv":
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    landing.look()
    request = landing.look()
    assert requested_files(request) == ["X/AB/good.csv"]
    assert "X/AB/odd.csv: it cannot be read: Permission denied" in failure_message(landing.run(request))


def test_a_cursor_of_an_older_version_is_read() -> None:
    cursor = '{"files": {"X/AB/a": ["1-1", true]}, "batch": null, "pending": [], "attempt": 0}'
    assert landing_sensor.LandingCursor.from_cursor(cursor).files == {
        "X/AB/a": landing_sensor.FileState("1-1", asked=True)
    }

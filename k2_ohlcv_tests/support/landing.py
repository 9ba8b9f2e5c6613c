"""A landing folder with the sensor and the job that ingest its files."""

import os
from pathlib import Path

import dagster as dg

from k2_ohlcv.definitions import build_definitions
from k2_ohlcv.defs import ingest_job
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import lakes

HEADER = "timestamp,price,quantity,trade_id"


class Landing:
    """The landing folder of a test, its sensor and the sensor's cursor."""

    def __init__(self, home: Path, instance: dg.DagsterInstance) -> None:
        self.folder = home / "landing" / "X" / "AB"
        self.folder.mkdir(parents=True)
        self.instance = instance
        self.cursor: str | None = None
        self.graph = build_definitions(Settings.from_environ())
        self.clock = 1_000_000_000

    def put(self, name: str, *lines: str) -> None:
        """Write a file, with a modification time one second after the last one."""
        path = self.folder / name
        path.write_text("".join(f"{line}\n" for line in lines))
        self.clock += 1
        os.utime(path, (self.clock, self.clock))

    def look(self) -> dg.RunRequest | str:
        """Evaluate the sensor once, as the daemon does."""
        context = dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=self.graph.get_repository_def()
        )
        tick = self.graph.resolve_sensor_def("landing_files").evaluate_tick(context)
        self.cursor = tick.cursor
        if tick.run_requests:
            (request,) = tick.run_requests
            return request
        assert tick.skip_message
        return tick.skip_message

    def run(self, request: dg.RunRequest | str) -> dg.ExecuteInProcessResult:
        """Run the job of a request."""
        assert isinstance(request, dg.RunRequest), request
        job = self.graph.resolve_job_def(ingest_job.INGEST_FILES_JOB)
        return job.execute_in_process(
            request.run_config, instance=self.instance, tags=request.tags, raise_on_error=False
        )


def requested_files(request: dg.RunRequest | str) -> list[str]:
    assert isinstance(request, dg.RunRequest), request
    return list(request.run_config["ops"][ingest_job.INGEST_OP]["config"]["files"])


def read_trades(landing: Landing) -> list[str]:
    table = lakes.open_lake(landing.folder.parents[2]).trades()
    return sorted(table.scan().to_arrow()["trade_id"].to_pylist())

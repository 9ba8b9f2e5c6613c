"""What a person does in Dagster's UI, over its GraphQL, and starting the UI."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

_ROOT = Path(__file__).parents[2]
_LOCATION = {"repositoryLocationName": "k2_ohlcv", "repositoryName": "__repository__"}

_RUNS = "{ runsOrError { ... on Runs { results { runId jobName status tags { key value } } } } }"
_BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_BACKFILL_STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
  __typename ... on PartitionBackfill { status error { message } } } }"""
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_TICKS = """{ sensorsOrError(repositorySelector: {repositoryLocationName: "k2_ohlcv",
  repositoryName: "__repository__"}) { ... on Sensors { results { name
  sensorState { status ticks(limit: 5) { status error { message } } } } } } }"""

ENDED = {"SUCCESS", "FAILURE", "CANCELED"}


class DagsterUI:
    """The webserver at an address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, query: str, **variables: Any) -> Any:
        """Send a query or mutation. Errors of the query itself fail the test."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{self.address}/graphql", body, headers), timeout=60) as answer:
            result = json.load(answer)
        assert "errors" not in result, result["errors"]
        return result["data"]

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the newest first."""
        runs: list[dict[str, Any]] = self.ask(_RUNS)["runsOrError"]["results"]
        return runs

    def sensors(self) -> list[dict[str, Any]]:
        """The sensors, with their last ticks."""
        sensors: list[dict[str, Any]] = self.ask(_TICKS)["sensorsOrError"]["results"]
        return sensors

    def backfill(self, assets: Iterable[str], partitions: list[str]) -> str:
        """Launch a backfill of partitions of some assets. Returns its id."""
        keys = [{"path": [asset]} for asset in assets]
        params = {"assetSelection": keys, "partitionNames": partitions}
        launched = self.ask(_BACKFILL, params=params)["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        return str(launched["backfillId"])

    def backfill_status(self, backfill: str) -> str:
        """The status of a backfill, such as `COMPLETED_SUCCESS`."""
        found = self.ask(_BACKFILL_STATUS, id=backfill)["partitionBackfillOrError"]
        return str(found["status"])

    def launch(self, job: str, config: dict[str, Any]) -> str:
        """Launch a run of a job. Returns its id."""
        params = {"selector": {**_LOCATION, "jobName": job}, "runConfigData": config}
        launched = self.ask(_LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def status(self, run_id: str) -> str:
        """The status of a run, such as `SUCCESS`."""
        (run,) = [run for run in self.runs() if run["runId"] == run_id]
        return str(run["status"])


def wait_until(is_done: Callable[[], bool], seconds: float, explain: Callable[[], str]) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, explain()
        time.sleep(1)


@contextmanager
def start_dagster(
    home: Path, log: Path, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], DagsterUI]]:
    """Start webserver and daemon, as `make dev` does. Their output is in `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    environment |= {
        "K2_HOME": str(home),
        "PYTHONPATH": str(_ROOT),
        "K2_LOG": "json",
        "SPARK_REMOTE": "",
        **settings,
    }
    with log.open("wb") as output:
        command = [sys.executable, "-m", "k2_ohlcv.cli.dev", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            yield process, DagsterUI(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()  # it ends its child processes
            process.wait(60)

"""Expired partitions leave the UI: retention has the webserver reload, and never fails over it."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from k2_ohlcv.commands import dev
from k2_ohlcv.commands.instance import opened
from k2_ohlcv.definitions import build
from k2_ohlcv.defs.maintenance import RETENTION
from k2_ohlcv.defs.reload import LOCATION, reload
from k2_ohlcv.domain.timeframe import timeframe
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests import lakes
from k2_ohlcv_tests.support.days import put_candles, trades_of_days

# Dagster 1.13 reads a pydantic attribute that pydantic 2.14 calls deprecated, and calls gql 4 as gql 3 was.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:Using variable_values and operation_name:DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
DONE = {"__typename": "WorkspaceLocationEntry", "locationOrLoadError": {"__typename": "RepositoryLocation"}}
BROKEN = {
    "__typename": "WorkspaceLocationEntry",
    "locationOrLoadError": {"__typename": "PythonError", "message": "it does not load"},
}
UNKNOWN = {"__typename": "RepositoryLocationNotFound", "message": "there is no such location"}


@contextmanager
def answering(answer: dict[str, Any] | str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers reloads so, or with this text; its address, and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, **body["variables"]})
            data = {"data": {"reloadRepositoryLocation": answer}}
            said = (answer if isinstance(answer, str) else json.dumps(data)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def lake(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Twenty days of candles, half of them past their time, where partitions begin with retention."""
    put_candles(lake, trades_of_days(20))
    lakes.add_trades(lake, trades_of_days(20))
    for name in ("DAGSTER_HOME", "SPARK_REMOTE", "K2_WEBSERVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    monkeypatch.setenv("K2_START_DATE", "retention")
    monkeypatch.setenv("K2_RETENTION_1M", "10d")
    return lake


def logged(*, apply: bool = True) -> str:
    """Run the retention job, which succeeds, and give what it says of the code location."""
    with opened(Settings.read()) as instance:
        result = (
            build(Settings.read())
            .resolve_job_def(RETENTION)
            .execute_in_process(
                instance=instance,
                run_config={"ops": {"let_go": {"config": {"apply": apply}}}},
                raise_on_error=False,
            )
        )
        assert result.success
        entries = instance.all_logs(result.run_id)
    return "\n".join(entry.user_message for entry in entries if "code location" in entry.user_message)


def rows(lake: Lake) -> int:
    return len(lake.candles(timeframe("1m")).scan().to_arrow())


@pytest.mark.parametrize("path", ["", "/dagster"])
def test_what_a_webserver_is_asked(path: str) -> None:
    with answering(DONE) as (address, asked):
        assert reload(address + path, "here") is None
    assert asked == [{"path": f"{path}/graphql", "repositoryLocationName": "here"}]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (BROKEN, "it does not load"),
        (UNKNOWN, "no such location"),
        ({"__typename": "UnauthorizedError"}, "read-only"),
        ("<html>", "GraphQL result"),
    ],
)
def test_why_it_did_not(answer: dict[str, Any] | str, why: str) -> None:
    with answering(answer) as (address, _):
        assert why in str(reload(address, "here"))
    assert "refused" in str(reload(address, "here")), "nobody listens any more"


def test_retention_has_the_webserver_reload(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has dropped partitions; not after a dry run, nor where nothing went."""
    before = rows(lake)
    with answering(DONE) as (address, asked):
        monkeypatch.setenv("K2_WEBSERVER", address)
        assert logged(apply=False) == ""
        assert asked == []
        assert f"The webserver at {address} has reloaded the code location {LOCATION}." in logged()
        assert [one["repositoryLocationName"] for one in asked] == [LOCATION]
        assert rows(lake) < before
        assert logged() == ""
        assert len(asked) == 1


def test_a_fixed_start_date_has_nothing_to_reload(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K2_START_DATE", "2013-01-01")
    with answering(DONE) as (address, asked):
        monkeypatch.setenv("K2_WEBSERVER", address)
        assert logged() == ""
    assert asked == []


@pytest.mark.parametrize(
    ("webserver", "said"),
    [("", "K2_WEBSERVER does not say where"), ("http://127.0.0.1:9", "did not reload it: ")],
)
def test_without_a_webserver_the_log_says_so(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, webserver: str, said: str
) -> None:
    """And retention has done its work all the same."""
    before = rows(lake)
    monkeypatch.setenv("K2_WEBSERVER", webserver)
    assert said in logged()
    assert rows(lake) < before


def test_what_make_dev_starts_knows_its_webserver(lake: Lake) -> None:
    environment = dev._environment(Settings.read(), "http://127.0.0.1:3111")
    assert Settings.read(environment).webserver == "http://127.0.0.1:3111"


def query(address: str, text: str) -> Any:
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": text}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]


def loaded(address: str) -> float:
    """When the webserver last loaded our code location."""
    text = "{ workspaceOrError { ... on Workspace { locationEntries { name updatedTimestamp } } } }"
    (entry,) = query(address, text)["workspaceOrError"]["locationEntries"]
    assert entry["name"] == LOCATION
    return float(entry["updatedTimestamp"])


def first_partition(address: str) -> str:
    text = '{ assetNodeOrError(assetKey: {path: ["gold_ohlcv_1m"]}) { ... on AssetNode { partitionKeys } } }'
    return str(query(address, text)["assetNodeOrError"]["partitionKeys"][0])


def problem(address: str) -> object:
    """Why the code location did not load; None if it did."""
    text = (
        "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError "
        "{ ... on PythonError { message } } } } } }"
    )
    (entry,) = query(address, text)["workspaceOrError"]["locationEntries"]
    return entry["locationOrLoadError"].get("message")


@pytest.mark.system
@pytest.mark.timeout(300)
def test_a_real_webserver_loads_the_partitions_anew(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it listed before the run is gone from its list after it."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # In place of a day that passes between two loads: the first of them is told to keep more.
    keeps = tmp_path / "keeps"
    keeps.write_text("90d")
    code = tmp_path / "graph.py"
    code.write_text(
        "import os, pathlib\n"
        f"os.environ['K2_RETENTION_1M'] = pathlib.Path({str(keeps)!r}).read_text()\n"
        "from k2_ohlcv.definitions import defs\n"
    )
    with opened(Settings.read()):
        pass  # Dagster's own tables
    command = ["-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port)]
    command += ["-w", str(tmp_path / "workspace.yaml")]
    (tmp_path / "workspace.yaml").write_text(
        f"load_from:\n  - python_file:\n      relative_path: graph.py\n      location_name: {LOCATION}\n"
    )
    environment = {**os.environ, "DAGSTER_HOME": str(Settings.read().dagster_home), "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            before = 0.0
            while not before:
                assert process.poll() is None, (tmp_path / "log").read_text()[-4000:]
                with suppress(urllib.error.URLError, ConnectionError):
                    before = loaded(address)
                time.sleep(0.5)
            assert problem(address) is None
            listed = first_partition(address)
            keeps.write_text("10d")
            assert first_partition(address) == listed
            monkeypatch.setenv("K2_WEBSERVER", address)
            assert "has reloaded the code location" in logged()
            assert loaded(address) > before
            assert first_partition(address) > listed
        finally:
            process.terminate()
            process.wait(30)

"""`make dev`: runs Dagster's UI and daemon on loopback, on the data of K2_HOME. Ctrl-C ends both.

It does the same as `dagster dev`, starts in half the time, and puts the instance into its folder.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import k2_ohlcv
from k2_ohlcv.cli.dagster_instance import open_instance, prepare_dagster_home
from k2_ohlcv.settings import Settings

#: A daemon that is asked to stop first ends its threads. After so many seconds it is killed.
_SHUTDOWN_SECONDS = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the UI and the daemon. When one of them ends, or on Ctrl-C, end both."""
    parser = argparse.ArgumentParser(prog="make dev", description="Dagster's UI and daemon on loopback.")
    parser.add_argument("--port", type=int, default=3000, help="the port of the UI (default %(default)s)")
    port = parser.parse_args(arguments).port
    settings = Settings.from_environ()
    _create_storage(settings)
    address = f"http://127.0.0.1:{port}"
    environment = _environment(settings)
    # A shell that starts this process in the background has it ignore SIGINT. The handler undoes that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    processes = [
        # Each has its own session, so that Ctrl-C reaches only this process, which ends both in order.
        subprocess.Popen(command, env=environment, cwd=settings.dagster_home, start_new_session=True)
        for command in _commands(port, "json" if settings.log_json else "colored")
    ]
    if not settings.log_json:
        sys.stderr.write(f"Dagster starts at {address} (15 seconds or so). Ctrl-C ends it.\n")
    try:
        while all(process.poll() is None for process in processes):
            time.sleep(0.5)
    except KeyboardInterrupt:
        return 0
    else:
        return 1
    finally:
        _stop_processes(processes)


def _environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "K2_HOME": str(settings.home),
        "DAGSTER_HOME": str(prepare_dagster_home(settings)),
    }


def _create_storage(settings: Settings) -> None:
    """Create Dagster's tables. If two processes created them together, one would fail."""
    with open_instance(settings):
        pass


def _commands(port: int, log_format: str) -> list[list[str]]:
    workspace = Path(k2_ohlcv.__file__).parent.parent / "workspace.yaml"
    code = ["-w", str(workspace)] if workspace.exists() else ["-m", "k2_ohlcv.definitions"]
    python = [sys.executable, "-m"]
    return [
        [*python, "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), *code, "--log-format", log_format],
        [*python, "dagster._daemon", "run", *code, "--log-format", log_format],
    ]


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _stop_processes(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # both clean up on SIGINT, and end their code servers
    deadline = time.monotonic() + _SHUTDOWN_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())

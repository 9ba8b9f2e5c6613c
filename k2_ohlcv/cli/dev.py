"""`make dev`: Dagster's UI and daemon side by side, on loopback, on the data of K2_HOME. Ctrl-C ends both.

This is what `dagster dev` does, in half the time to be up, and with the instance put where it belongs.
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

#: A daemon that is told to stop lets its threads finish; one that has not after this is killed.
_SHUTDOWN_SECONDS = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Start both, wait until one ends or we are told to, end both."""
    parser = argparse.ArgumentParser(prog="make dev", description="Dagster's UI and daemon on loopback.")
    parser.add_argument("--port", type=int, default=3000, help="the port of the UI (default %(default)s)")
    port = parser.parse_args(arguments).port
    settings = Settings.from_environ()
    _create_storage(settings)
    address = f"http://127.0.0.1:{port}"
    environment = _environment(settings)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # a shell that starts us in the background ignores the first
        signal.signal(number, _interrupt)
    processes = [
        # In a session of its own each, so that Ctrl-C reaches them through us, once, and in order.
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
    """Make Dagster's tables before two processes try to make the same ones, of which one would then fail."""
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
            process.send_signal(signal.SIGINT)  # both clean up on this one, the code servers with them
    deadline = time.monotonic() + _SHUTDOWN_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())

"""Sail as a Connect server in its own process, which tests kill, suspend and restart."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from k2_ohlcv_tests.support.servers import free_port

#: `start` runs the server in the background: the server needs Python's lock to answer.
_CODE = (
    "import sys, time; from pysail.spark import SparkConnectServer\n"
    "server = SparkConnectServer('127.0.0.1', int(sys.argv[1]))\n"
    "server.start()\n"
    "while True: time.sleep(60)"
)
_SECONDS = 60.0


class Server:
    """Sail at one port of the loopback."""

    def __init__(self) -> None:
        self.port = free_port()
        self.remote = f"sc://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until its port accepts connections."""
        command = [sys.executable, "-c", _CODE, str(self.port)]
        self._process = subprocess.Popen(command, env=os.environ | {"RUST_LOG": "off"})
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise RuntimeError("the server did not come up")

    def kill(self) -> None:
        """Kill the server immediately."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def suspend(self) -> None:
        """Suspend the server. The system still accepts connections, and nothing answers them."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)


@contextmanager
def server() -> Iterator[Server]:
    """A server that accepts connections."""
    sail = Server()
    sail.start()
    try:
        yield sail
    finally:
        sail.kill()

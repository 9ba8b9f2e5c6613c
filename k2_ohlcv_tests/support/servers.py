"""Servers for tests: S3 (moto) and Postgres (Debian's), each in its own process on the loopback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

#: Debian has a folder of Postgres binaries per version, which is not on the PATH.
_DEBIAN = Path("/usr/lib/postgresql")
_PREFIX = "PYICEBERG_CATALOG__K2__"


def free_port() -> int:
    """A port of the loopback that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class S3:
    """An S3 server that accepts any keys and stores its buckets in memory."""

    endpoint: str

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket."""
        urlopen(Request(f"{self.endpoint}/{name}", method="PUT"), timeout=60).close()

    def properties(self) -> dict[str, str]:
        """The catalog properties that name this server."""
        return {
            "s3.endpoint": self.endpoint,
            "s3.access-key-id": "key",
            "s3.secret-access-key": "secret",
            "s3.region": "us-east-1",
        }


@contextmanager
def s3_server() -> Iterator[S3]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_server(lambda: is_answering(port), server)
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(30)


def postgres_binaries() -> Path | None:
    """The folder of the newest installed Postgres, if any."""
    folders = [path.parent for path in _DEBIAN.glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    return max(folders, default=None, key=lambda path: path.parent.name)


def require_postgres() -> Path:
    """The folder of Postgres' binaries. A test without Postgres skips, or fails under K2_REQUIRE_POSTGRES."""
    binaries = postgres_binaries()
    if binaries is None:
        reason = "Postgres is not installed (Debian's package: postgresql)"
        if os.environ.get("K2_REQUIRE_POSTGRES"):
            pytest.fail(reason)
        pytest.skip(reason)
    return binaries


@contextmanager
def postgres_server() -> Iterator[str]:
    """A Postgres server with an empty data folder. Yields the URI of its database for SQLAlchemy."""
    binaries, port = require_postgres(), free_port()
    # Only the user of pytest may enter pytest's folder, and Postgres runs as another user.
    home = Path(tempfile.mkdtemp(prefix="k2-postgres-"))
    try:
        begin, data = as_another_user(home), str(home / "data")
        initdb = [*begin, str(binaries / "initdb"), "-D", data, "-U", "postgres", "-A", "trust"]
        initdb += ["--no-sync", "--no-locale", "-E", "UTF8"]
        subprocess.run(initdb, cwd="/", check=True, capture_output=True, timeout=120)
        command = [*begin, str(binaries / "postgres"), "-D", data, "-p", str(port)]
        for option in ("listen_addresses=127.0.0.1", f"unix_socket_directories={home}", "fsync=off"):
            command += ["-c", option]
        with (home / "log").open("w") as log, subprocess.Popen(command, cwd="/", stderr=log) as server:
            try:
                is_ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
                wait_for_server(lambda: subprocess.run(is_ready, check=False).returncode == 0, server)
                yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(60)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def as_another_user(home: Path) -> list[str]:
    """The start of a command that runs as user `postgres`. Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return []
    shutil.chown(home, "postgres", "postgres")
    # The kernel interrupts the server when this process ends.
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=INT"]


def is_answering(port: int) -> bool:
    """Whether a server accepts connections at a port of the loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for_server(is_up: Callable[[], bool], server: subprocess.Popen[Any], seconds: float = 60) -> None:
    """Wait until a server is up.

    Raises:
        RuntimeError: it ended, or is not up in time.
    """
    deadline = time.monotonic() + seconds
    while not is_up():
        if time.monotonic() > deadline or server.poll() is not None:
            raise RuntimeError(f"the server did not come up: {server.args!r}")
        time.sleep(0.05)


def configure(monkeypatch: pytest.MonkeyPatch, properties: dict[str, str]) -> None:
    """Set PyIceberg's environment variables for exactly these catalog properties."""
    for name in [name for name in os.environ if name.startswith(_PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in properties.items():
        monkeypatch.setenv(variable(name), value)


def variable(name: str) -> str:
    """The environment variable of a catalog property."""
    return _PREFIX + name.upper().replace(".", "__").replace("-", "_")

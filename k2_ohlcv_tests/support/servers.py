"""Servers for tests: S3 (moto's) and Postgres (Debian's), each in processes of its own on the loopback."""

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
from urllib.request import Request, urlopen

import pytest

#: Where Debian keeps the binaries of Postgres, a folder a version; they are not on the PATH.
_DEBIAN = Path("/usr/lib/postgresql")
_PREFIX = "PYICEBERG_CATALOG__K2__"


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class S3:
    """An S3 server with any keys, whose buckets are in its memory."""

    endpoint: str

    def make_bucket(self, name: str) -> None:
        """Make a bucket, empty."""
        urlopen(Request(f"{self.endpoint}/{name}", method="PUT"), timeout=10).close()

    def properties(self) -> dict[str, str]:
        """The catalog properties that name it."""
        return {
            "s3.endpoint": self.endpoint,
            "s3.access-key-id": "key",
            "s3.secret-access-key": "secret",
            "s3.region": "us-east-1",
        }


@contextmanager
def s3_server() -> Iterator[S3]:
    """An S3 server of moto's."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until(lambda: _answers(port), server)
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(30)


def postgres_binaries() -> Path | None:
    """The folder of the newest Postgres here, if there is one."""
    found = [path.parent for path in _DEBIAN.glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    return max(found, default=None, key=lambda path: path.parent.name)


def require_postgres() -> Path:
    """The folder of Postgres' binaries. Without, the test is skipped, or fails under K2_REQUIRE_POSTGRES."""
    binaries = postgres_binaries()
    if binaries is None:
        why = "Postgres is not installed (Debian's package: postgresql)"
        if os.environ.get("K2_REQUIRE_POSTGRES"):
            pytest.fail(why)
        pytest.skip(why)
    return binaries


@contextmanager
def postgres_server() -> Iterator[str]:
    """A Postgres server with an empty data folder; gives the URI of its database, for SQLAlchemy."""
    binaries, port = require_postgres(), free_port()
    # Not in pytest's folder, which its own user alone may enter.
    home = Path(tempfile.mkdtemp(prefix="k2-postgres-"))
    try:
        begin, data = _as_another_user(home), str(home / "data")
        initdb = [*begin, str(binaries / "initdb"), "-D", data, "-U", "postgres", "-A", "trust"]
        initdb += ["--no-sync", "--no-locale", "-E", "UTF8"]
        subprocess.run(initdb, cwd="/", check=True, capture_output=True, timeout=120)
        command = [*begin, str(binaries / "postgres"), "-D", data, "-p", str(port)]
        for option in ("listen_addresses=127.0.0.1", f"unix_socket_directories={home}", "fsync=off"):
            command += ["-c", option]
        with (home / "log").open("w") as log, subprocess.Popen(command, cwd="/", stderr=log) as server:
            try:
                is_ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
                _wait_until(lambda: subprocess.run(is_ready, check=False).returncode == 0, server)
                yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(60)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _as_another_user(home: Path) -> list[str]:
    """What a command begins with so that it does not run as root, whom Postgres refuses."""
    if os.geteuid() != 0:
        return []
    shutil.chown(home, "postgres", "postgres")
    # The server ends with this process, however that ends.
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=INT"]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait_until(is_up: Callable[[], bool], server: subprocess.Popen[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_up():
        if time.monotonic() > deadline or server.poll() is not None:
            raise RuntimeError(f"the server did not come up: {server.args!r}")
        time.sleep(0.05)


def configure(monkeypatch: pytest.MonkeyPatch, properties: dict[str, str]) -> None:
    """Set PyIceberg's own variables so that the catalog has these properties, and no others."""
    for name in [name for name in os.environ if name.startswith(_PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in properties.items():
        monkeypatch.setenv(variable(name), value)


def variable(name: str) -> str:
    """The variable that sets a property of the catalog."""
    return _PREFIX + name.upper().replace(".", "__").replace("-", "_")

"""Servers for tests: S3 (moto's) and Postgres (Debian's), each in processes of its own on the loopback."""

import os
import shutil
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
        _wait_for(port, server.poll)
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
        as_user = _as_another_user(home)

        def run(tool: str, *arguments: str) -> None:
            command = [*as_user, str(binaries / tool), "-D", str(home / "data"), *arguments]
            with (home / "out").open("a") as out:
                done = subprocess.run(command, cwd="/", stdout=out, stderr=out, timeout=60, check=False)
            assert not done.returncode, (home / "out").read_text()

        run("initdb", "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={home} -c fsync=off"
        run("pg_ctl", "-w", "-l", str(home / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _as_another_user(home: Path) -> list[str]:
    """What a command begins with so that it does not run as root, whom Postgres refuses."""
    if os.geteuid() != 0:
        return []
    shutil.chown(home, "postgres", "postgres")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _wait_for(port: int, ended: Callable[[], int | None], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and ended() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"no server came up at port {port}")


def configure(monkeypatch: pytest.MonkeyPatch, properties: dict[str, str]) -> None:
    """Set PyIceberg's own variables so that the catalog has these properties, and no others."""
    for name in [name for name in os.environ if name.startswith(_PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in properties.items():
        monkeypatch.setenv(variable(name), value)


def variable(name: str) -> str:
    """The variable that sets a property of the catalog."""
    return _PREFIX + name.upper().replace(".", "__").replace("-", "_")

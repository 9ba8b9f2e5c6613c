"""What stands in for the foreign images of docker/compose.yaml: Debian's Postgres, and an S3 server."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from k2_ohlcv_tests.support.compose import DOCKER, Service
from k2_ohlcv_tests.support.servers import as_another_user, require_postgres

_DATA = "var/lib/postgresql/data"
#: `make test-all` builds the S3 server of the file here. Otherwise moto stands in for it.
_TOOLS = DOCKER.parent / ".tools"


def find_s3_server() -> str | None:
    """The program of the file's S3 server, if it is installed."""
    return shutil.which("versitygw", path=_TOOLS) or shutil.which("versitygw")


def image_command(service: Service, root: Path, address: str) -> list[str]:
    """The command of a service, with what the entry point of a foreign image does before.

    Args:
        service: with its command in terms of this machine.
        root: the folder in place of its root file system.
        address: where it listens.
    """
    if service.name == "postgres":
        return _postgres_command(service, root, address)
    if service.name == "s3":
        if program := find_s3_server():
            for folder in ("objects/buckets", "objects/metadata"):  # as the service `s3-volume` does
                (root / folder).mkdir(exist_ok=True)
            return [program, *service.command]
        return [sys.executable, "-m", "moto.server", "-H", address, "-p", "7070"]
    return service.command


def _postgres_command(service: Service, root: Path, address: str) -> list[str]:
    binaries, data = require_postgres(), root / _DATA
    # Without the signal at the end of its starter: that may be a thread, which ends before the test.
    begin = [word for word in as_another_user(data.resolve()) if not word.startswith("--pdeathsig")]
    if not (data / "PG_VERSION").exists():
        password = data.resolve().with_name("postgres-password")
        password.write_text(service.environment["POSTGRES_PASSWORD"])
        if begin:
            shutil.chown(password, "postgres", "postgres")
        arguments = shlex.split(service.environment["POSTGRES_INITDB_ARGS"])
        user = service.environment["POSTGRES_USER"]
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", user, f"--pwfile={password}", *arguments]
        subprocess.run([*begin, *initdb, "--no-sync"], cwd="/", check=True, capture_output=True, timeout=120)
        password.unlink()
    program, *options = service.command
    here = ["-D", str(data), "-c", f"listen_addresses={address}", "-c", f"unix_socket_directories={data}"]
    return [*begin, str(binaries / program), *options, *here, "-c", "fsync=off"]


def prepare_image(service: Service, root: Path, environment: Mapping[str, str]) -> None:
    """Do what the entry point of a foreign image does once, after the first start: Postgres' scripts."""
    marker = root / "prepared"
    if service.name != "postgres" or marker.exists():
        return
    binaries, socket_folder = require_postgres(), root / _DATA
    variables = {**environment, "PGHOST": str(socket_folder), "PATH": f"{binaries}:{environment['PATH']}"}
    for script in sorted((root / "docker-entrypoint-initdb.d").glob("*.sh")):
        done = subprocess.run(
            [script], env=variables, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    marker.touch()

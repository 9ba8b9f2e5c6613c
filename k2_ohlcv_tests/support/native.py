"""Runs the services of docker/compose.yaml without containers, each by its command and environment there.

Each service has an address of its own on the loopback, in place of its host name, so that ports stay as they
are. Each has a folder in place of its root file system, and its volumes are linked into that. What stands in
for a foreign image is in `native_images`.
"""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from k2_ohlcv.engine.spark_jars import jar_cache_folder
from k2_ohlcv_tests.support.compose import DOCKER, Service, image_environment, read_services
from k2_ohlcv_tests.support.native_images import image_command, prepare_image

ROOT = DOCKER.parent
#: The working folder of our image, its user's home.
_HOME = "/data"
_HOST_OPTIONS = ("--host", "-h")
_SECONDS = 300.0
#: Docker tries again without an end.
_ATTEMPTS = 5
_SMALL_JVM = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"


class Native:
    """The services, started and stopped one by one.

    Attributes:
        folder: has volumes, roots and logs.
        addresses: the loopback address of each service.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.services = read_services({**variables, "LANDING": str(folder / "volumes" / "landing")})
        net = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"  # other tests may run beside this
        self.addresses = {name: f"{net}.{n}" for n, name in enumerate(self.services, start=1)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        shutil.copytree(DOCKER, folder / "docker", ignore=shutil.ignore_patterns(".env", "landing"))
        workspace = folder / "docker" / "workspace.yaml"
        workspace.write_text(re.sub(r"host: ([\w-]+)", self._yaml_host, workspace.read_text()))
        (folder / "logs").mkdir()

    def _yaml_host(self, match: re.Match[str]) -> str:
        return f"host: {self.addresses[match[1]]}"

    def port_of(self, name: str) -> int | None:
        """The port that a service's command names."""
        command = self.services[name].command
        if "--port" in command:
            return int(command[command.index("--port") + 1].lstrip(":"))
        return 5432 if name == "postgres" else None

    def root(self, name: str) -> Path:
        """The folder in place of a service's root file system, with its volumes."""
        root = self.folder / "roots" / name
        for target, source in self.services[name.partition("#")[0]].mounts.items():
            place = root / target.lstrip("/")
            if not place.is_symlink():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(self._volume(source or f"{name}{target}"))
        (root / _HOME.lstrip("/")).mkdir(parents=True, exist_ok=True)
        return root

    def _volume(self, source: str) -> Path:
        if source.startswith("./"):
            return self.folder / "docker" / source[2:]
        path = Path(source) if source.startswith("/") else self.folder / "volumes" / source.replace("/", "-")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def translate(self, name: str, words: list[str]) -> list[str]:
        """A command with addresses in place of hosts, and folders of this machine in place of paths."""
        service, translated = name.partition("#")[0], []
        for before, word in zip(["", *words], words, strict=False):
            if before in _HOST_OPTIONS:
                translated.append(self.addresses.get(word, self.addresses[service]))
            elif before == "--port" and word.startswith(":"):
                translated.append(f"{self.addresses[service]}{word}")
            else:
                translated.append(self._translate_text(name, word))
        return translated

    def _translate_text(self, name: str, text: str) -> str:
        for host, address in self.addresses.items():
            text = re.sub(rf"(?<=[@/'])(?<!\w/){host}(?=:\d|')", address, text)
        places = {
            "/opt/k2/docker": self.folder / "docker",
            "/opt/cache": jar_cache_folder().parents[1],
        }
        for path in ("/data", "/scratch", "/objects", "/var/lib/postgresql/data"):
            places[path] = self.root(name) / path.lstrip("/")
        for path, place in places.items():
            text = re.sub(rf"^{path}(?![\w-])", str(place), text)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """All variables of a service's processes: those of the image and the file, and where programs are."""
        service = name.partition("#")[0]
        variables = {**image_environment(), **self.services[service].environment}
        texts = {key: self._translate_text(name, value) for key, value in variables.items()}
        path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
        # A container has one address, which Spark finds out. Here it is told. Several JVMs share two cores.
        alone = {"SPARK_LOCAL_IP": self.addresses[service], "JDK_JAVA_OPTIONS": _SMALL_JVM}
        alone = alone if service.startswith("spark-") else {}
        return {"PATH": path, "HOME": str(self.root(name) / "data"), **alone, **texts}

    def start(self, name: str, seconds: float = _SECONDS) -> None:
        """Start a service, and wait until it is healthy. `worker#2` is the second replica of `worker`."""
        service = self.services[name.partition("#")[0]]
        native = replace(service, command=self.translate(name, service.command))
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                image_command(native, self.root(name), self.addresses[service.name]),
                env=self.environment(name),
                cwd=self.root(name) / "data",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait(name, service, time.monotonic() + seconds)
        prepare_image(native, self.root(name), self.environment(name))

    def _wait(self, name: str, service: Service, deadline: float) -> None:
        port = self.port_of(service.name)
        while not (port is None or self._answers(service.name, port)):
            self._check(name, deadline)
        while service.name != "s3" and not self.is_healthy(name):  # moto may stand in for it
            self._check(name, deadline)

    def _check(self, name: str, deadline: float) -> None:
        if self.processes[name].poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not come up: {self.log(name)}")
        time.sleep(0.3)

    def _answers(self, name: str, port: int) -> bool:
        try:
            socket.create_connection((self.addresses[name], port), timeout=1).close()
        except OSError:
            return False
        return True

    def is_healthy(self, name: str) -> bool:
        """Whether the health check of the file succeeds. A service without one is healthy while it runs."""
        check = self.services[name.partition("#")[0]].healthcheck
        return not check or self.run(name, check).returncode == 0

    def run(self, name: str, words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in a service's environment, as `docker compose exec --env` does."""
        return subprocess.run(
            self.translate(name, words),
            env={**self.environment(name), **variables},
            cwd=self.root(name) / "data",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def finish(self, name: str) -> None:
        """Run a service that ends by itself. As the file says, it starts again after a failure."""
        service = self.services[name]
        attempts = _ATTEMPTS if service.definition.get("restart") == "on-failure" else 1
        done = self.run(name, service.command)
        while done.returncode and (attempts := attempts - 1):
            done = self.run(name, service.command)
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stdout}{done.stderr}")

    def log(self, name: str) -> str:
        """The end of a service's output."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")[-6000:]

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM, seconds: float = 30) -> None:
        """End a service with all of its processes, by a signal."""
        process = self.processes.pop(name)
        # Postgres takes TERM as the wish to wait for its clients.
        wanted = signal.SIGINT if name == "postgres" and number is signal.SIGTERM else number
        for each in (wanted, signal.SIGKILL):
            try:
                os.killpg(process.pid, each)
                process.wait(seconds)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue

    def stop_all(self) -> None:
        """End all services, the last one first."""
        for name in reversed(list(self.processes)):
            self.stop(name, seconds=10)


@contextmanager
def native_services(variables: Mapping[str, str]) -> Iterator[Native]:
    """The services in a temporary folder, none of them started. All are ended and removed on exit."""
    # Not pytest's folder, which only pytest's user may enter: Postgres runs as another one.
    folder = Path(tempfile.mkdtemp(prefix="k2-production-"))
    folder.chmod(0o711)
    native = Native(folder, variables)
    try:
        yield native
    finally:
        native.stop_all()
        shutil.rmtree(folder, ignore_errors=True)

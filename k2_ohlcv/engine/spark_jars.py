"""Downloads the jars for local Spark, once per user.

PySpark's Ivy downloads the jars. Ivy needs only Java, and uses Spark's settings of repositories. Two Ivy
processes that fill an empty cache simultaneously break each other. Each package is therefore downloaded under
a lock. The folder of a package gets its final name only when it has all jars. Passing the jars to Spark is in
`local_spark`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from k2_ohlcv.domain.addresses import redact_secrets
from k2_ohlcv.domain.errors import EngineUnavailableError
from k2_ohlcv.file_lock import hold_lock

#: Downloads a package with its dependencies into an empty folder, and returns the jars.
Fetcher = Callable[[str, Path], list[Path]]

#: A repository that does not answer often answers a moment later.
_ATTEMPTS = 3
_PAUSE_SECONDS = 5.0
#: The largest jar has 50 MB, and AWS's bundle has 600 MB.
_FETCH_SECONDS = 1800.0
_PARTIAL = ".fetching-"
_MAX_OUTPUT_LINES = 12

_log = structlog.get_logger(__name__)


def jar_cache_folder() -> Path:
    """The folder of this user's jars, for all lakes."""
    cache = os.environ.get("XDG_CACHE_HOME") or ""
    # The XDG standard forbids a relative path.
    root = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    return root / "k2-ohlcv" / "spark-jars"


def fetch_spark_jars(packages: Iterable[str], fetch: Fetcher | None = None) -> list[Path]:
    """Get the jars of some packages from the user's cache. Missing packages are downloaded.

    Args:
        packages: Maven coordinates, `group:artifact:version`.
        fetch: downloads one package. The default is Ivy.

    Raises:
        EngineUnavailableError: a package cannot be downloaded, or the cache cannot be written.
    """
    cache = jar_cache_folder()
    jars: dict[str, Path] = {}
    for package in packages:
        for jar in _package_jars(package, cache, fetch or fetch_with_ivy):
            jars.setdefault(jar.name, jar)  # two packages may need the same jar
    return list(jars.values())


def _package_jars(package: str, cache: Path, fetch: Fetcher) -> list[Path]:
    folder = cache / package.replace(":", "_")
    if not folder.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with hold_lock(cache / f".{folder.name}.lock"):
                if not folder.is_dir():  # another process may have downloaded it
                    _fetch_into(folder, package, fetch)
        except OSError as error:
            raise EngineUnavailableError(
                f"the jars of {package} cannot be stored in {cache}: {error.strerror or error}. "
                "Set XDG_CACHE_HOME to a writable folder."
            ) from error
    return sorted(folder.glob("*.jar"))


def _fetch_into(folder: Path, package: str, fetch: Fetcher) -> None:
    for abandoned in folder.parent.glob(f"{_PARTIAL}{folder.name}-*"):
        shutil.rmtree(abandoned, ignore_errors=True)  # its process was killed, and released the lock
    _log.warning("downloading jars for Spark, once", package=package, folder=str(folder))
    work = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{folder.name}-", dir=folder.parent))
    try:
        whole = work / "whole"
        whole.mkdir()
        for jar in _fetch_checked(package, work, fetch):
            shutil.move(jar, whole / jar.name)
        whole.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch_checked(package: str, work: Path, fetch: Fetcher) -> list[Path]:
    for attempt in range(1, _ATTEMPTS + 1):
        target = work / f"attempt-{attempt}"
        target.mkdir()
        try:
            jars = fetch(package, target)
            if not jars or not all(zipfile.is_zipfile(jar) for jar in jars):
                raise EngineUnavailableError(f"the jars of {package} are incomplete")
        except EngineUnavailableError as error:
            if attempt == _ATTEMPTS:
                raise
            _log.warning("downloading again", package=package, attempt=attempt, error=str(error))
            time.sleep(_PAUSE_SECONDS * attempt)
        else:
            return jars
    raise AssertionError("unreachable: the last attempt returns or raises")


def fetch_with_ivy(package: str, folder: Path) -> list[Path]:
    """Download a package with PySpark's Ivy. Ivy runs when an empty script is submitted with the package.

    Raises:
        EngineUnavailableError: Ivy cannot download the package. The message has Ivy's last lines.
    """
    import pyspark

    script = folder / "nothing.py"
    script.touch()
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    options = ["--master", "local[1]", "--conf", f"spark.jars.ivy={folder / 'ivy'}", "--packages", package]
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    # PySpark sets the arguments for its child processes. The address of a server does not matter here.
    for name in ("SPARK_REMOTE", "PYSPARK_SUBMIT_ARGS"):
        environment.pop(name, None)
    try:
        done = subprocess.run(
            [str(submit), *options, str(script)],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _fetch_error(package, f"Ivy took longer than {_FETCH_SECONDS:.0f} seconds") from None
    jars = sorted((folder / "ivy" / "jars").glob("*.jar"))
    if done.returncode or not jars:
        raise _fetch_error(package, _last_lines(done.stdout))
    return jars


def _last_lines(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("\tat ")]
    return "; ".join(lines[-_MAX_OUTPUT_LINES:])


def _fetch_error(package: str, reason: str) -> EngineUnavailableError:
    return EngineUnavailableError(
        f"the jars of {package}, which Spark on this machine needs, cannot be downloaded. Try again with a "
        "network to Spark's package repositories, or unset SPARK_REMOTE to compute without Java. "
        f"Ivy's output: {redact_secrets(reason)}"
    )

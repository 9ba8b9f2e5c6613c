"""The cache of Spark's jars: filled once for all processes, never with half a jar."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from k2_ohlcv.domain.errors import EngineUnavailableError
from k2_ohlcv.engine import spark_jars
from k2_ohlcv.engine.spark_jars import fetch_spark_jars, jar_cache_folder
from k2_ohlcv_tests.support.processes import call_together

PACKAGES = ["org.a:one_2.13:1.0", "org.b:two:2.0"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache. Retries do not wait."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(spark_jars, "_PAUSE_SECONDS", 0.0)
    return jar_cache_folder()


def jar(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.class", b"x" * 1000)
    return path


def fake_fetch(package: str, folder: Path) -> list[Path]:
    """Fetch slowly, record the call beside the cache, return a jar of the package and a shared one."""
    with (jar_cache_folder().parent / "calls").open("a") as calls:
        calls.write(f"{package}\n")
    time.sleep(0.3)
    return [jar(folder / f"{package.replace(':', '_')}.jar"), jar(folder / "shared-1.0.jar")]


def list_calls() -> list[str]:
    return sorted((jar_cache_folder().parent / "calls").read_text().split())


def fetch_in_process() -> list[str]:
    return [str(path) for path in fetch_spark_jars(PACKAGES, fake_fetch)]


def test_four_processes_and_an_empty_cache_fetch_once(cache: Path) -> None:
    answers = call_together(fetch_in_process)
    assert list_calls() == PACKAGES
    assert all(answer == answers[0] for answer in answers)
    assert [Path(path).name for path in answers[0]] == [
        "org.a_one_2.13_1.0.jar",
        "shared-1.0.jar",
        "org.b_two_2.0.jar",
    ]
    assert all(zipfile.is_zipfile(path) for path in answers[0])


def test_cached_jars_are_not_fetched_again(cache: Path) -> None:
    first = fetch_spark_jars(PACKAGES, fake_fetch)
    assert fetch_spark_jars(PACKAGES, fake_fetch) == first
    assert list_calls() == PACKAGES


def test_a_failed_fetch_is_tried_again_and_leaves_nothing(cache: Path) -> None:
    """After an error, no jars or a cut jar, the next attempt begins in an empty folder."""
    outcomes = iter(["error", "none", "whole"])

    def flaky(package: str, folder: Path) -> list[Path]:
        assert list(folder.iterdir()) == []
        match next(outcomes):
            case "error":
                raise EngineUnavailableError("no answer")
            case "none":
                return []
        return [jar(folder / "whole.jar")]

    assert [path.name for path in fetch_spark_jars(PACKAGES[:1], flaky)] == ["whole.jar"]

    def cut(package: str, folder: Path) -> list[Path]:
        (folder / "cut.jar").write_bytes(jar(folder / "whole.jar").read_bytes()[:500])
        return [folder / "cut.jar"]

    with pytest.raises(EngineUnavailableError, match=r"org.b:two:2.0 are incomplete"):
        fetch_spark_jars(PACKAGES, cut)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["org.a_one_2.13_1.0"]


def test_a_killed_fetch_leaves_no_half_jar_in_the_cache(cache: Path) -> None:
    code = (
        "import time; from k2_ohlcv.engine.spark_jars import fetch_spark_jars\n"
        "def fetch(package, folder):\n"
        "    (folder / 'half.jar').write_bytes(b'half'); print('fetching', flush=True); time.sleep(600)\n"
        f"fetch_spark_jars({PACKAGES[:1]!r}, fetch)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line == "fetching\n" for line in lines)
        os.kill(process.pid, signal.SIGKILL)
    assert not (cache / "org.a_one_2.13_1.0").exists()
    assert len(fetch_spark_jars(PACKAGES[:1], fake_fetch)) == 2
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["org.a_one_2.13_1.0"]


def test_a_cache_folder_that_cannot_be_written_is_an_error_with_its_path(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "k2-ohlcv").write_text("a file, no folder")
    with pytest.raises(EngineUnavailableError, match=r"cannot be stored in .*Set XDG_CACHE_HOME"):
        fetch_spark_jars(PACKAGES, fake_fetch)


def test_the_cache_is_in_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert jar_cache_folder() == tmp_path / ".cache" / "k2-ohlcv" / "spark-jars"


def test_the_message_of_ivy_is_in_the_error(tmp_path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("Ivy needs Java, which is not installed")
    with pytest.raises(EngineUnavailableError, match=r"the jars of nonsense, .* Ivy's output: .*nonsense"):
        spark_jars.fetch_with_ivy("nonsense", tmp_path)

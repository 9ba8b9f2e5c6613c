"""Spark's jars: fetched once however many processes ask, whole or not at all, and again after a failure."""

import multiprocessing
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

PACKAGES = ["org.a:one_2.13:1.0", "org.b:two:2.0"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no waiting."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(spark_jars, "_PAUSE_SECONDS", 0.0)
    return jar_cache_folder()


def jar(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.class", b"x" * 1000)
    return path


def fake(package: str, folder: Path) -> list[Path]:
    """Fetches slowly, notes each call beside the cache, and gives a jar of the package and a shared one."""
    with (jar_cache_folder().parent / "calls").open("a") as calls:
        calls.write(f"{package}\n")
    time.sleep(0.3)
    return [jar(folder / f"{package.replace(':', '_')}.jar"), jar(folder / "shared-1.0.jar")]


def calls() -> list[str]:
    return sorted((jar_cache_folder().parent / "calls").read_text().split())


def ask(found: "multiprocessing.Queue[list[str]]") -> None:
    found.put([str(path) for path in fetch_spark_jars(PACKAGES, fake)])


def test_four_processes_and_an_empty_cache_fetch_once(cache: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    found: multiprocessing.Queue[list[str]] = spawn.Queue()
    processes = [spawn.Process(target=ask, args=(found,)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert calls() == PACKAGES
    assert all(answer == answers[0] for answer in answers)
    assert [Path(path).name for path in answers[0]] == [
        "org.a_one_2.13_1.0.jar",
        "shared-1.0.jar",
        "org.b_two_2.0.jar",
    ]
    assert all(zipfile.is_zipfile(path) for path in answers[0])


def test_what_is_there_is_not_fetched_again(cache: Path) -> None:
    first = fetch_spark_jars(PACKAGES, fake)
    assert fetch_spark_jars(PACKAGES, fake) == first
    assert calls() == PACKAGES


def test_a_failed_fetch_is_tried_again_and_leaves_nothing(cache: Path) -> None:
    """Cut jars, none, or an error: the next attempt begins in an empty folder."""
    told = iter(["error", "none", "whole"])

    def flaky(package: str, folder: Path) -> list[Path]:
        assert list(folder.iterdir()) == []
        match next(told):
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


def test_a_killed_fetch_leaves_no_half_and_the_next_one_clears_it(cache: Path) -> None:
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
    assert len(fetch_spark_jars(PACKAGES[:1], fake)) == 2
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["org.a_one_2.13_1.0"]


def test_a_cache_that_cannot_be_written_is_named(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "k2-ohlcv").write_text("a file, no folder")
    with pytest.raises(EngineUnavailableError, match=r"cannot be stored in .*Set XDG_CACHE_HOME"):
        fetch_spark_jars(PACKAGES, fake)


def test_the_cache_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert jar_cache_folder() == tmp_path / ".cache" / "k2-ohlcv" / "spark-jars"


def test_what_ivy_says_is_in_the_error(tmp_path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("Ivy needs Java, and none is found")
    with pytest.raises(EngineUnavailableError, match=r"the jars of nonsense, .* Ivy's output: .*nonsense"):
        spark_jars.fetch_with_ivy("nonsense", tmp_path)

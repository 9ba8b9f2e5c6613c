"""The machine and the versions that a benchmark ran on, in words."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped] # ships none

_PACKAGES = ("pysail", "pyspark", "pyiceberg", "pyarrow", "duckdb", "polars")


def describe_environment() -> list[str]:
    """Lines: the machine, the versions, and how busy it was."""
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    lines = [
        f"{_processor_name()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory; {system}",
        ", ".join(f"{package} {version(package)}" for package in _PACKAGES),
    ]
    load = os.getloadavg()[0]
    lines.append(f"load before the first run: {load:.2f} (well above 0, other work disturbed the times)")
    return lines


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"

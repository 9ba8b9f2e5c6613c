"""The machine, the package versions and the load during a benchmark, as text."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped] # has no types

_PACKAGES = ("pysail", "pyspark", "pyiceberg", "pyarrow", "duckdb", "polars")


def describe_environment() -> list[str]:
    """Lines of text: the machine, the package versions, and the load."""
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    lines = [
        f"{_processor_name()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory; {system}",
        ", ".join(f"{package} {version(package)}" for package in _PACKAGES),
    ]
    load = os.getloadavg()[0]
    lines.append(
        f"load before the first run: {load:.2f} (well above 0 means that other work disturbed the times)"
    )
    return lines


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"

"""A home for the commands, and none of the variables that a developer may have set."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`K2_HOME`, which does not exist yet."""
    for name in [*os.environ]:
        if name.startswith("K2_") or name in {"DAGSTER_HOME", "SPARK_REMOTE"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("K2_HOME", str(tmp_path / "home"))
    return tmp_path / "home"

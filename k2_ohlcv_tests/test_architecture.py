"""The direction of imports: domain <- frames, lake, engine, sources <- operations <- defs, cli.

Imports within functions and for type checkers count too. They would only hide a circle.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import k2_ohlcv

ROOT = Path(k2_ohlcv.__file__).parent
ENGINES = {"pyspark", "pysail", "pyiceberg", "dagster", "dagster_pyspark"}

#: For each package: which other packages its modules may import besides `domain`, and which engines.
PACKAGES: dict[str, tuple[set[str], set[str]]] = {
    "domain": (set(), set()),
    "settings": (set(), set()),
    "file_lock": (set(), set()),
    "frames": ({"frames"}, set()),
    "logs": ({"logs", "settings"}, {"dagster"}),
    "lake": ({"lake", "frames", "file_lock", "settings"}, {"pyiceberg"}),
    "sources": ({"sources"}, set()),
    "engine": (
        {"engine", "frames", "lake", "file_lock", "settings"},
        {"pyspark", "pysail", "pyiceberg", "dagster", "dagster_pyspark"},
    ),
    "operations": ({"operations", "engine", "frames", "lake", "sources"}, {"pyiceberg"}),
    "defs": (
        {"defs", "operations", "engine", "frames", "lake", "sources", "logs", "settings"},
        {"pyspark", "pyiceberg", "dagster", "dagster_pyspark"},
    ),
}


def list_modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py")) if (ROOT / package).is_dir() else [ROOT / f"{package}.py"]


def list_imports(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_packages_below_it(package: str) -> None:
    packages, engines = PACKAGES[package]
    for module in list_modules(package):
        for name in list_imports(module):
            top, _, rest = name.partition(".")
            if top == "k2_ohlcv" and rest:
                assert rest.split(".")[0] in packages | {"domain"}, f"{module} imports {name}"
            assert top not in ENGINES - engines, f"{module} imports {name}"


def module_name(module: Path) -> str:
    parts = module.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_have_no_circle() -> None:
    names = {module_name(module): module for module in ROOT.rglob("*.py")}
    graph = {
        name: {name if name in names else name.rpartition(".")[0] for name in list_imports(module)}
        & set(names)
        for name, module in names.items()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        pytest.fail(" imports ".join(circle.args[1]))


def test_only_the_command_line_and_defs_import_the_assembled_graph() -> None:
    """Other packages depend on the parts of the graph, and never on `k2_ohlcv.definitions`."""
    for module in ROOT.rglob("*.py"):
        if any(name.startswith("k2_ohlcv.definitions") for name in list_imports(module)):
            assert module.relative_to(ROOT).parts[0] in {"cli", "defs"}, module


def test_importing_starts_no_engine_and_reads_no_environment() -> None:
    """The graph's module loads without Spark and with invalid settings."""
    code = (
        "import sys, k2_ohlcv.definitions, k2_ohlcv.cli.main\n"
        "assert 'pysail' not in sys.modules\n"
        "assert 'pyspark.sql.connect' not in sys.modules\n"
    )
    environment = {"K2_START_DATE": "nonsense", "K2_LOG": "nonsense", "SPARK_REMOTE": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_module_has_a_docstring() -> None:
    for module in ROOT.rglob("*.py"):
        text = module.read_text()
        assert not text or ast.get_docstring(ast.parse(text)), module

"""The direction of imports: domain <- frames, lake, engine, sources <- operations <- defs, cli."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import k2_ohlcv

ROOT = Path(k2_ohlcv.__file__).parent
ENGINES = {"pyspark", "pysail", "pyiceberg", "dagster", "dagster_pyspark"}

#: What the modules of a room may import of this package, besides the domain, and which engines.
ROOMS: dict[str, tuple[set[str], set[str]]] = {
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


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py")) if (ROOT / room).is_dir() else [ROOT / f"{room}.py"]


def imports(module: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    ours, engines = ROOMS[room]
    for module in modules(room):
        for name in imports(module):
            top, _, rest = name.partition(".")
            if top == "k2_ohlcv" and rest:
                assert rest.split(".")[0] in ours | {"domain"}, f"{module} imports {name}"
            assert top not in ENGINES - engines, f"{module} imports {name}"


def name_of(module: Path) -> str:
    parts = module.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_module_leads_back_to_itself() -> None:
    """Imports within functions and for type checkers count too: they hide a circle, and do not end it."""
    names = {name_of(module): module for module in ROOT.rglob("*.py")}
    graph = {
        name: {found if found in names else found.rpartition(".")[0] for found in imports(module)}
        & set(names)
        for name, module in names.items()
    }
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        pytest.fail(" imports ".join(circle.args[1]))


def test_definitions_is_imported_by_nobody_in_the_package_but_the_way_in() -> None:
    """Only where people come in, the command line, may the assembled graph be asked for."""
    for module in ROOT.rglob("*.py"):
        if any(name.startswith("k2_ohlcv.definitions") for name in imports(module)):
            assert module.relative_to(ROOT).parts[0] in {"cli", "defs"}, module


def test_importing_starts_no_engine_and_reads_no_environment() -> None:
    """The graph's module loads with a nonsensical environment, and without Spark."""
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


def test_every_module_says_what_belongs_in_it() -> None:
    for module in ROOT.rglob("*.py"):
        text = module.read_text()
        assert not text or ast.get_docstring(ast.parse(text)), module

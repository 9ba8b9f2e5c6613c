"""CONTRIBUTING.md: its map names the modules that exist, and its trade flows through functions that exist."""

import ast
import re
from pathlib import Path

import k2_ohlcv

ROOT = Path(k2_ohlcv.__file__).parent
TEXT = (ROOT.parent / "CONTRIBUTING.md").read_text()
#: Rooms whose modules the map names in a sentence, not in a table.
WITHOUT_TABLE = {"logs"}


def modules_of_package() -> set[str]:
    found = {module.relative_to(ROOT).with_suffix("").as_posix() for module in ROOT.rglob("*.py")}
    return {name for name in found if "/" in name and not name.endswith("__init__")}


def modules_on_map() -> set[str]:
    """The names in the first column of each room's table, with the room before them."""
    text = TEXT[: TEXT.index("## Glossary")]
    names = set()
    for section in re.split(r"(?m)^\*\*`", text)[1:]:
        room = section[: section.index("/`")]
        for row in re.findall(r"(?m)^\| (`.*?) \|", section):
            names |= {f"{room}/{name}" for name in re.findall(r"`([\w/]+)`", row)}
    return names


def test_the_map_has_every_module_and_no_other() -> None:
    modules = {name for name in modules_of_package() if name.split("/")[0] not in WITHOUT_TABLE}
    assert modules_on_map() - {"sources/sample/"} == modules


def test_a_trade_flows_through_functions_that_exist() -> None:
    """Each "file: function" of the section is a function or method that the file defines."""
    flow = TEXT[TEXT.index("## How a trade flows") : TEXT.index("## Tests and linters")]
    steps = re.findall(r"`([\w/]+\.py)`: `([\w.]+)`", flow)
    assert len(steps) >= 15
    for file, function in steps:
        tree = ast.parse((ROOT / file).read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert function.rpartition(".")[2] in defined, f"{file} has no {function}"

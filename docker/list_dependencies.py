"""Prints the dependencies in pyproject.toml, one a line, for the image's layer of packages."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
sys.stdout.write("".join(f"{dependency}\n" for dependency in project["dependencies"]))

"""Reads docker/compose.yaml, its settings and the Dockerfile's environment, as far as tests need them."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[2] / "docker"


class MissingVariableError(Exception):
    """A variable that the file requires is not set."""


@dataclass(frozen=True)
class Service:
    """A service of the file.

    Attributes:
        command: the command, for our image or a foreign one.
        environment: the variables. Those without a value anywhere are left out.
        mounts: the source of each mounted folder, by its path in the container. An anonymous volume has none.
        healthcheck: the command that tells whether it is healthy, if there is one.
        definition: the service as the file has it, interpolated.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    mounts: dict[str, str]
    healthcheck: list[str]
    definition: dict[str, Any]


def read_env_file(path: Path, overrides: Mapping[str, str]) -> dict[str, str]:
    """The variables of a settings file. Overrides stand for a file that a person has edited."""
    variables: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            known = variables | overrides
            variables[name] = overrides[name] if name in overrides else interpolate(value, known)
    return {**overrides, **variables}


def read_services(variables: Mapping[str, str], path: Path = DOCKER / "compose.yaml") -> dict[str, Service]:
    """The services, with these variables in place of a settings file.

    Raises:
        MissingVariableError: a required variable is missing.
    """
    document = interpolate_all(yaml.safe_load(path.read_text()), variables)
    return {name: _service(name, entry, variables) for name, entry in document["services"].items()}


def _service(name: str, entry: dict[str, Any], variables: Mapping[str, str]) -> Service:
    environment = {
        key: str(variables[key] if value is None else value)
        for key, value in entry.get("environment", {}).items()
        if value is not None or key in variables
    }
    mounts = {}
    for volume in entry.get("volumes", []):
        source, _, rest = volume.partition(":")
        target = rest.removesuffix(":ro")
        mounts[target or source] = source if target else ""
    command = entry.get("command", [])
    check = entry.get("healthcheck", {}).get("test", ["CMD"])
    assert check[0] == "CMD", name
    words = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
    return Service(name, words, environment, mounts, [str(word) for word in check[1:]], entry)


def interpolate_all(value: Any, variables: Mapping[str, str]) -> Any:
    """Interpolate every text of a document, but not its keys."""
    if isinstance(value, dict):
        return {key: interpolate_all(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolate_all(each, variables) for each in value]
    return interpolate(value, variables) if isinstance(value, str) else value


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""

    def replace(match: re.Match[str]) -> str:
        name, operator, rest = match["name"], match["operator"], match["rest"]
        if value := variables.get(name):
            return value
        if operator == ":?":
            raise MissingVariableError(f"{name}: {rest}")
        return rest or ""

    return re.sub(r"\$\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<rest>[^}]*))?\}", replace, text)


def image_environment() -> dict[str, str]:
    """The variables that the last stage of the Dockerfile sets."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    stage = text[text.rindex("\nFROM ") :]
    return dict(_assignments(stage))


def _assignments(stage: str) -> Iterator[tuple[str, str]]:
    for line in stage.splitlines():
        if line.startswith("ENV "):
            for word in shlex.split(line.removeprefix("ENV ")):
                name, _, value = word.partition("=")
                yield name, value

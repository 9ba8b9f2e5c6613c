"""The Connect server of a cluster: its configuration has the catalog, and its arguments have no secret."""

import os
import stat
from pathlib import Path

import pytest

from k2_ohlcv.cli import spark_connect
from k2_ohlcv_tests.support.servers import configure

SECRETS = {"db": "p\\w=d", "s3": "k:!# e\u00e9y", "cluster": "shared"}
ARGUMENTS = ["--master", "spark://spark-master:7077", "--host", "0.0.0.0", "--conf", "spark.cores.max=3"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The command that the process becomes. Jars are taken as fetched."""
    uri = "postgresql+psycopg2://me:p%5Cw%3Dd@postgres:5432/iceberg"
    store = {"s3.endpoint": "http://s3:7070", "s3.access-key-id": "id", "s3.secret-access-key": SECRETS["s3"]}
    configure(monkeypatch, {"type": "sql", "uri": uri, "warehouse": "s3://lake/warehouse", **store})
    monkeypatch.setenv("_SPARK_AUTH_SECRET", SECRETS["cluster"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(spark_connect, "fetch_spark_jars", lambda names: [Path(f"/jars/{n}") for n in names])
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: commands.append(words))
    with pytest.raises(AssertionError, match="unreachable"):
        spark_connect.main(ARGUMENTS)
    return commands[0]


def read_properties(path: Path) -> dict[str, str]:
    """Read a file of Java properties by Java's rules, as far as the file uses them."""
    found = {}
    for line in path.read_text(encoding="ascii").splitlines():
        key, _, value = line.partition("=")
        found[key] = value.encode().decode("unicode_escape")
    return found


def test_secrets_are_in_a_file_of_this_user_alone(started: list[str]) -> None:
    path = Path(started[started.index("--properties-file") + 1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not [secret for secret in SECRETS.values() if secret in " ".join(started)]


def test_the_configuration_has_catalog_cluster_and_options(started: list[str]) -> None:
    config = read_properties(Path(started[started.index("--properties-file") + 1]))
    assert config["spark.sql.catalog.k2.jdbc.password"] == SECRETS["db"]
    assert config["spark.sql.catalog.k2.s3.secret-access-key"] == SECRETS["s3"]
    assert config["spark.authenticate.secret"] == SECRETS["cluster"]
    assert config["spark.master"] == "spark://spark-master:7077"
    assert config["spark.connect.grpc.binding.address"] == "0.0.0.0"
    assert config["spark.cores.max"] == "3"
    assert config["spark.sql.catalog.k2.cache-enabled"] == "false"
    assert config["spark.driver.extraClassPath"] == config["spark.executor.extraClassPath"]
    assert "iceberg-aws-bundle" in config["spark.executor.extraClassPath"]


def test_a_catalog_that_spark_cannot_open_is_an_error_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(monkeypatch, {"type": "dynamodb"})
    assert spark_connect.main(ARGUMENTS) == 1
    assert capsys.readouterr().err.startswith("error: Spark on this machine cannot open the catalog")

"""Preparation of the production shape: made once, and left as it is afterwards."""

from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, S3FileSystem

from k2_ohlcv.cli import prepare
from k2_ohlcv_tests.support.servers import S3, configure

pytestmark = pytest.mark.xdist_group("s3")


@pytest.fixture
def configured(tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """The environment of a lake whose bucket is not there. Returns the bucket's name."""
    name = "to-be-made"
    catalog = {
        "type": "sql",
        "uri": f"sqlite:///{tmp_path}/catalog.db",
        "warehouse": f"s3://{name}/warehouse",
    }
    configure(monkeypatch, {**catalog, **s3.properties()})
    monkeypatch.setenv("K2_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "instance"))
    return name


def list_bucket(s3: S3, name: str) -> list[str]:
    files = S3FileSystem(endpoint_override=s3.endpoint, scheme="http", access_key="key", secret_key="secret")
    return [info.base_name for info in files.get_file_info(FileSelector(name, recursive=True))]


def test_bucket_catalog_and_instance_are_made_once(
    configured: str, s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second call changes nothing, but for a new dagster.yaml."""
    source = tmp_path / "source.yaml"
    source.write_text("telemetry: {enabled: false}\n")
    arguments = ["--dagster-yaml", str(source)]
    assert prepare.main(arguments) == 0
    assert f"made the bucket {configured}" in capsys.readouterr().err
    assert list_bucket(s3, configured) == []
    assert (tmp_path / "catalog.db").exists()
    source.write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    assert prepare.main(arguments) == 0
    assert "the bucket is there" in capsys.readouterr().err
    assert (tmp_path / "instance" / "dagster.yaml").read_text() == source.read_text()


def test_no_bucket_is_made_at_aws() -> None:
    """Without an endpoint nothing is asked at all."""
    assert prepare.create_bucket({"warehouse": "s3://someone-elses/warehouse"}) is None


def test_a_store_that_does_not_answer_is_an_error_in_a_sentence(
    configured: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__K2__S3__ENDPOINT", "http://127.0.0.1:1")
    assert prepare.main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said

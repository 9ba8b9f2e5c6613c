"""Sail finds the store that the catalog's properties name, and the environment is put back."""

import os

import pytest
from structlog.testing import capture_logs

from k2_ohlcv.engine.sail_storage import aws_environment, sail_storage

KEYS = {"s3.access-key-id": "key", "s3.secret-access-key": "secret"}
LOCATION = "s3://lake/warehouse"


@pytest.mark.parametrize(
    ("properties", "environ", "wanted"),
    [
        ({}, {}, {}),
        ({"uri": "sqlite:///x", "warehouse": "file:///x"}, {"AWS_REGION": "eu-west-1"}, {}),
        (KEYS, {}, {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}),
        (
            {"client.access-key-id": "key", "client.secret-access-key": "secret", "client.region": "r"},
            {},
            {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "r"},
        ),
        (
            KEYS | {"s3.session-token": "token"},
            {"AWS_SESSION_TOKEN": "other"},
            {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"},
        ),
        # A token belongs to its key.
        (
            KEYS,
            {"AWS_SESSION_TOKEN": "other"},
            {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": None},
        ),
        ({"s3.access-key-id": "half"}, {}, {}),
        (
            {"s3.endpoint": "http://127.0.0.1:9000"},
            {"AWS_ENDPOINT": "http://elsewhere"},
            {
                "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
                "AWS_ENDPOINT": None,
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "us-east-1",
            },
        ),
        (
            {"s3.endpoint": "https://store", "s3.region": "auto"},
            {},
            {"AWS_ENDPOINT_URL": "https://store", "AWS_REGION": "auto"},
        ),
        (
            {"s3.endpoint": "https://store"},
            {"AWS_DEFAULT_REGION": "auto"},
            {"AWS_ENDPOINT_URL": "https://store"},
        ),
        # All from the environment, as PyIceberg takes it too: only that plain HTTP is meant has to be said.
        (
            {},
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "AWS_REGION": "r"},
            {"AWS_ALLOW_HTTP": "true"},
        ),
        ({"s3.anonymous": "true"}, {}, {"AWS_SKIP_SIGNATURE": "true"}),
        ({"s3.force-virtual-addressing": "true"}, {}, {"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"}),
        ({"s3.force-virtual-addressing": "False"}, {}, {"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false"}),
        (
            {"s3.endpoint": "https://store:8443", "s3.region": "r", "s3.force-virtual-addressing": "true"},
            {},
            {
                "AWS_ENDPOINT_URL": "https://lake.store:8443",
                "AWS_REGION": "r",
                "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
            },
        ),
    ],
)
def test_properties_become_variables(
    properties: dict[str, str], environ: dict[str, str], wanted: dict[str, str | None]
) -> None:
    assert aws_environment(properties, LOCATION, environ) == wanted


def test_without_a_bucket_an_endpoint_is_addressed_by_path() -> None:
    """A REST catalog's warehouse is a name; the bucket is known once a table is."""
    properties = {"s3.endpoint": "https://store", "s3.region": "r", "s3.force-virtual-addressing": "true"}
    assert aws_environment(properties, "main", {}) == {
        "AWS_ENDPOINT_URL": "https://store",
        "AWS_REGION": "r",
    }


def test_the_environment_is_put_back_and_a_conflict_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variables' names, never with what they hold."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "theirs")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "theirs")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    before = dict(os.environ)
    with capture_logs() as logged, sail_storage(KEYS) as storage:
        assert os.environ["AWS_ACCESS_KEY_ID"] == "key"
        assert os.environ["AWS_SECRET_ACCESS_KEY"] == "secret"
        assert "AWS_SESSION_TOKEN" not in os.environ
        storage.follow({**KEYS, "s3.access-key-id": "vended", "s3.session-token": "short"}, LOCATION)
        assert os.environ["AWS_ACCESS_KEY_ID"] == "vended"
        assert os.environ["AWS_SESSION_TOKEN"] == "short"
    assert dict(os.environ) == before
    assert [one["variables"] for one in logged] == ["AWS_ACCESS_KEY_ID, AWS_SESSION_TOKEN"]
    assert "key" not in str(logged).replace("AWS_ACCESS_KEY_ID", "")


def test_the_environment_is_put_back_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), sail_storage(KEYS | {"s3.endpoint": "http://127.0.0.1:1"}):
        raise ZeroDivisionError
    assert dict(os.environ) == before

"""Sets the environment variables that Sail needs for the object store, from the catalog's properties.

Sail reads the AWS_* variables of this process when it first opens a bucket, and again when credentials
expire. The variables are therefore set before Sail starts, until it ends. PyIceberg reads the properties.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import structlog

_log = structlog.get_logger(__name__)

_ENDPOINT = "AWS_ENDPOINT_URL"
_KEY, _SECRET, _TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
_REGION, _HTTP = "AWS_REGION", "AWS_ALLOW_HTTP"
_VIRTUAL, _UNSIGNED = "AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "AWS_SKIP_SIGNATURE"
#: Other names of the endpoint. If several are set, Sail may use any of them.
_ENDPOINT_TOO = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3")
#: The default region for a store with its own endpoint. Without a region, Sail would query AWS.
_ANY_REGION = "us-east-1"


def aws_environment(
    properties: Mapping[str, str], location: str, environ: Mapping[str, str]
) -> dict[str, str | None]:
    """Convert catalog properties to environment variables for the same store and credentials.

    Settings without a property are left to the environment, like in PyIceberg.

    Args:
        properties: of a catalog, or of a table with its own credentials.
        location: of a table or a warehouse, with the bucket. Empty if it is not known yet.
        environ: the current environment.

    Returns:
        The values of the variables. None means that the variable must not be set.
    """
    variables: dict[str, str | None] = {}
    endpoint = properties.get("s3.endpoint")
    if endpoint:
        variables |= {_ENDPOINT: endpoint, **dict.fromkeys(_ENDPOINT_TOO)}
    identity = [_either(properties, name) for name in ("access-key-id", "secret-access-key", "session-token")]
    if identity[0] and identity[1]:
        # A token from another source would make the key invalid, so all three are set together.
        variables |= dict(zip((_KEY, _SECRET, _TOKEN), identity, strict=True))
    if region := _either(properties, "region"):
        variables[_REGION] = region
    used = endpoint or environ.get(_ENDPOINT) or ""
    if used and not (region or environ.get(_REGION) or environ.get("AWS_DEFAULT_REGION")):
        variables[_REGION] = _ANY_REGION
    if used.startswith("http://"):
        variables[_HTTP] = "true"
    if _is_true(properties.get("s3.anonymous")):
        variables[_UNSIGNED] = "true"
    if virtual := properties.get("s3.force-virtual-addressing"):
        variables |= _addressing(_is_true(virtual), endpoint, urlsplit(location).netloc)
    return {name: value for name, value in variables.items() if value is not None or name in environ}


def _either(properties: Mapping[str, str], name: str) -> str | None:
    return properties.get(f"s3.{name}") or properties.get(f"client.{name}") or None


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() in {"true", "1", "yes", "on", "y", "t"}


def _addressing(virtual: bool, endpoint: str | None, bucket: str) -> dict[str, str | None]:
    """The variables for addressing. With virtual addressing, Sail needs the bucket in the endpoint."""
    if not virtual or not endpoint:
        return {_VIRTUAL: str(virtual).lower()}
    if not bucket:
        return {}
    parts = urlsplit(endpoint)
    return {_VIRTUAL: "true", _ENDPOINT: parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()}


class SailStorage:
    """The environment variables of an embedded server, restored at its end."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}

    def follow(self, properties: Mapping[str, str], location: str) -> None:
        """Set the environment variables for the store of these properties and this location."""
        wanted = aws_environment(properties, location, os.environ)
        changed = {name: value for name, value in wanted.items() if os.environ.get(name) != value}
        overridden = sorted(name for name in changed if name in os.environ and name not in self._before)
        if overridden:
            _log.warning(
                "the catalog's s3 properties override the environment for the engine",
                variables=", ".join(overridden),
            )
        for name, value in changed.items():
            self._before.setdefault(name, os.environ.get(name))
            _put(name, value)

    def restore(self) -> None:
        """Restore the environment variables."""
        for name, value in self._before.items():
            _put(name, value)
        self._before.clear()


@contextmanager
def sail_storage(properties: Mapping[str, str]) -> Iterator[SailStorage]:
    """Set the environment variables for these properties, and restore them on exit."""
    storage = SailStorage()
    try:
        storage.follow(properties, properties.get("warehouse", ""))
        yield storage
    finally:
        storage.restore()


def _put(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value

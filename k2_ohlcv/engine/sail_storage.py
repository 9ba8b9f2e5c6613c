"""What Sail needs to know of the object store: the environment, made from the catalog's own properties.

Sail reads the AWS_* variables of this process when it first opens a bucket, and again when credentials have
aged. So they hold from before it starts until it has ended. PyIceberg reads the properties themselves.
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
#: Other names of the endpoint. Of several that are set, Sail takes any.
_ENDPOINT_TOO = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3")
#: The region that a store with an address of its own has where none is said: Sail would ask AWS for it.
_ANY_REGION = "us-east-1"


def aws_environment(
    properties: Mapping[str, str], location: str, environ: Mapping[str, str]
) -> dict[str, str | None]:
    """The variables that name the same store, in the same name, as some catalog properties do.

    What the properties do not say is left to the environment, as PyIceberg leaves it.

    Args:
        properties: of a catalog, or of a table that a catalog gave with credentials of its own.
        location: of a table or a warehouse, which names the bucket; empty where none is known yet.
        environ: what is set already.

    Returns:
        Their values; None for variables that must not be set.
    """
    found: dict[str, str | None] = {}
    endpoint = properties.get("s3.endpoint")
    if endpoint:
        found |= {_ENDPOINT: endpoint, **dict.fromkeys(_ENDPOINT_TOO)}
    identity = [_either(properties, name) for name in ("access-key-id", "secret-access-key", "session-token")]
    if identity[0] and identity[1]:
        # The three belong together: a token from elsewhere would spoil the key.
        found |= dict(zip((_KEY, _SECRET, _TOKEN), identity, strict=True))
    if region := _either(properties, "region"):
        found[_REGION] = region
    used = endpoint or environ.get(_ENDPOINT) or ""
    if used and not (region or environ.get(_REGION) or environ.get("AWS_DEFAULT_REGION")):
        found[_REGION] = _ANY_REGION
    if used.startswith("http://"):
        found[_HTTP] = "true"
    if _is_true(properties.get("s3.anonymous")):
        found[_UNSIGNED] = "true"
    if virtual := properties.get("s3.force-virtual-addressing"):
        found |= _addressing(_is_true(virtual), endpoint, urlsplit(location).netloc)
    return {name: value for name, value in found.items() if value is not None or name in environ}


def _either(properties: Mapping[str, str], name: str) -> str | None:
    return properties.get(f"s3.{name}") or properties.get(f"client.{name}") or None


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() in {"true", "1", "yes", "on", "y", "t"}


def _addressing(virtual: bool, endpoint: str | None, bucket: str) -> dict[str, str | None]:
    """How requests name the bucket. With virtual addressing Sail expects it in the endpoint already."""
    if not virtual or not endpoint:
        return {_VIRTUAL: str(virtual).lower()}
    if not bucket:
        return {}
    parts = urlsplit(endpoint)
    return {_VIRTUAL: "true", _ENDPOINT: parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()}


class SailStorage:
    """The environment of an embedded server, changed while it runs and put back at its end."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}

    def follow(self, properties: Mapping[str, str], location: str) -> None:
        """Have the environment name the store that these properties and this location name."""
        wanted = aws_environment(properties, location, os.environ)
        changed = {name: value for name, value in wanted.items() if os.environ.get(name) != value}
        others = sorted(name for name in changed if name in os.environ and name not in self._before)
        if others:
            _log.warning(
                "the catalog's s3 properties hold for the engine too, not what the environment says",
                variables=", ".join(others),
            )
        for name, value in changed.items():
            self._before.setdefault(name, os.environ.get(name))
            _put(name, value)

    def restore(self) -> None:
        """Put the environment back as it was."""
        for name, value in self._before.items():
            _put(name, value)
        self._before.clear()


@contextmanager
def sail_storage(properties: Mapping[str, str]) -> Iterator[SailStorage]:
    """The environment for these properties, put back on exit."""
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

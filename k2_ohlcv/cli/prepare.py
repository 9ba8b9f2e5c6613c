"""`python -m k2_ohlcv.cli.prepare`: makes what the services of production need before they start.

These are the bucket of an S3 server of one's own, the tables of the SQL catalog, and Dagster's instance. What
exists is left as it is. Services that start together would race to make them.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pyarrow.fs import FileType, S3FileSystem

from k2_ohlcv.cli.dagster_instance import open_instance
from k2_ohlcv.domain.addresses import redact_secrets
from k2_ohlcv.domain.errors import K2Error, UsageError
from k2_ohlcv.lake.catalog import Lake, catalog_properties
from k2_ohlcv.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare bucket, catalog and Dagster's instance. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="prepare", description="Make what the services need to start.")
    parser.add_argument("--dagster-yaml", type=Path, help="copy this file to DAGSTER_HOME as dagster.yaml")
    dagster_yaml = parser.parse_args(arguments).dagster_yaml
    try:
        settings = Settings.from_environ()
        if dagster_yaml is not None:
            copy_dagster_yaml(dagster_yaml, settings)
        bucket = create_bucket(catalog_properties(settings))
        Lake.open(settings)
        with open_instance(settings):
            pass
    except (K2Error, OSError) as error:
        sys.stderr.write(f"error: {redact_secrets(str(error))}\n")
        return 1
    sys.stderr.write(f"prepared: {'made the bucket ' + bucket if bucket else 'the bucket is there'}\n")
    return 0


def copy_dagster_yaml(source: Path, settings: Settings) -> None:
    """Copy the configuration of Dagster's instance to DAGSTER_HOME.

    Raises:
        UsageError: DAGSTER_HOME is not set. Without it the folder has the configuration of the package.
    """
    if not os.environ.get("DAGSTER_HOME"):
        raise UsageError("--dagster-yaml needs DAGSTER_HOME, the folder that it is copied to")
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    partial = settings.dagster_home / f".dagster.yaml.{os.getpid()}"
    partial.write_bytes(source.read_bytes())
    partial.replace(settings.dagster_home / "dagster.yaml")  # atomic, as services may be reading the file


def create_bucket(properties: Mapping[str, str]) -> str | None:
    """Create the warehouse's bucket at an S3 server of one's own. Returns its name if it was missing.

    Nothing is created at AWS's own S3, which has no `s3.endpoint`. There an administrator makes buckets.

    Args:
        properties: the catalog's properties.

    Raises:
        OSError: the server does not answer, or refuses.
    """
    endpoint, warehouse = properties.get("s3.endpoint", ""), urlsplit(properties.get("warehouse", ""))
    if not endpoint or warehouse.scheme not in {"s3", "s3a", "s3n"}:
        return None
    files = S3FileSystem(
        endpoint_override=endpoint,
        scheme=urlsplit(endpoint).scheme or "https",
        region=properties.get("s3.region"),
        access_key=properties.get("s3.access-key-id"),
        secret_key=properties.get("s3.secret-access-key"),
        session_token=properties.get("s3.session-token"),
        allow_bucket_creation=True,
    )
    if files.get_file_info(warehouse.netloc).type is not FileType.NotFound:
        return None
    files.create_dir(warehouse.netloc)
    return warehouse.netloc


if __name__ == "__main__":
    sys.exit(main())

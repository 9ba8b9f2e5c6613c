"""`python -m k2_ohlcv.cli.spark_connect`: becomes the Spark Connect server in front of a cluster.

Its Spark has the catalog `k2` of PyIceberg's configuration, so that the catalog is configured in one place.
Secrets are in a file of this user alone. Arguments of a process are visible to everyone on its machine.
Spark on this machine, for `SPARK_REMOTE=local[N]`, is in `engine.local_spark`.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from k2_ohlcv.domain.errors import K2Error
from k2_ohlcv.engine.local_spark import server_config
from k2_ohlcv.engine.spark_catalog import spark_catalog
from k2_ohlcv.engine.spark_jars import fetch_spark_jars
from k2_ohlcv.lake.catalog import CATALOG, catalog_properties
from k2_ohlcv.settings import Settings

_SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
#: Spark reads the secret of its cluster from this variable, but a driver only from its configuration.
_CLUSTER_SECRET = "_SPARK_AUTH_SECRET"  # noqa: S105 # the name of a variable


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the configuration and become the server. Returns an exit code only if that fails."""
    options = _parse_arguments(arguments)
    try:
        config = connect_config(options, os.environ)
    except K2Error as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    path = write_config(config)
    # Beside the file, spark-defaults.conf counts, which master and workers read too.
    command = [str(_spark_submit()), "--properties-file", str(path), "--load-spark-defaults"]
    os.execv(command[0], [*command, "--class", _SERVER, "spark-internal"])  # noqa: S606 # needs no shell
    raise AssertionError("unreachable: the process is the server now")


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="spark_connect", description="Spark Connect in front of a cluster, with the catalog k2."
    )
    parser.add_argument("--master", required=True, help="the cluster, as spark://host:7077")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default %(default)s)")
    parser.add_argument("--port", type=int, default=15002, help="its port (default %(default)s)")
    parser.add_argument("--memory", default="2g", help="of the server itself (default %(default)s)")
    parser.add_argument("--executor-memory", default="2g", help="of each executor (default %(default)s)")
    parser.add_argument(
        "--conf", action="append", default=[], metavar="NAME=VALUE", help="further Spark configuration"
    )
    return parser.parse_args(arguments)


def connect_config(options: argparse.Namespace, environ: Mapping[str, str]) -> dict[str, str]:
    """Make Spark's configuration of the server, with the secrets of catalog and cluster.

    Missing jars are downloaded first.

    Args:
        options: the arguments of the command.
        environ: the environment.
    """
    catalog = spark_catalog(CATALOG, catalog_properties(Settings.from_environ(environ)))
    # The jars lie at the same place for driver and executors. Spark would send 600 MB to each executor.
    jars = os.pathsep.join(str(jar) for jar in fetch_spark_jars(catalog.packages))
    secret = environ.get(_CLUSTER_SECRET)
    return {
        "spark.app.name": "k2-ohlcv",
        "spark.master": options.master,
        "spark.driver.memory": options.memory,
        "spark.executor.memory": options.executor_memory,
        "spark.driver.extraClassPath": jars,
        "spark.executor.extraClassPath": jars,
        "spark.connect.grpc.binding.address": options.host,
        "spark.connect.grpc.binding.port": str(options.port),
        "spark.ui.enabled": "false",
        **server_config(catalog),
        **({"spark.authenticate.secret": secret} if secret else {}),
        **dict(part.split("=", 1) for part in options.conf if "=" in part),
    }


def write_config(config: Mapping[str, str]) -> Path:
    """Write a file of properties that only this user can read, in a temporary folder of its own."""
    path = Path(tempfile.mkdtemp(prefix="k2-connect-")) / "spark.properties"
    text = "".join(f"{key}={_escaped(value)}\n" for key, value in config.items())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    return path


def _escaped(value: str) -> str:
    """Escape a value for a file of Java properties. The file is in ASCII."""
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    if escaped[:1] in {" ", "\t"}:  # a space at the start would be skipped
        escaped = f"\\{escaped}"
    units = escaped.encode("utf-16-be")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)


def _spark_submit() -> Path:
    import pyspark

    return Path(pyspark.__file__).parent / "bin" / "spark-submit"


if __name__ == "__main__":
    sys.exit(main())

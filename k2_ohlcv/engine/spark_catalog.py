"""Converts PyIceberg's properties of a catalog to Spark's configuration of the same catalog.

Properties with the same name in both are copied. Properties of a SQL catalog become JDBC properties. S3
properties get the names of Java's Iceberg. The functions are pure. `local_spark` uses the configuration.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from k2_ohlcv.domain.errors import UsageError

#: The newest Iceberg runtime is for Spark 4.1, so pyspark is pinned to 4.1.
ICEBERG_RUNTIME = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0"
ICEBERG_AWS = "org.apache.iceberg:iceberg-aws-bundle:1.12.0"
JDBC_DRIVERS = {
    "sqlite": "org.xerial:sqlite-jdbc:3.50.3.0",
    "postgresql": "org.postgresql:postgresql:42.7.8",
}
_S3_FILE_IO = "org.apache.iceberg.aws.s3.S3FileIO"
_ANONYMOUS_PROVIDER = "software.amazon.awssdk.auth.credentials.AnonymousCredentialsProvider"
_POSTGRES_PORT = 5432

#: Catalog types with the same name in Spark and PyIceberg.
_SAME_TYPE = {"rest", "hive", "glue"}
#: Properties with the same name in both libraries, for any catalog.
_SHARED_PREFIXES = ("s3.", "client.", "http-client.", "io-impl", "warehouse")
#: Properties for PyIceberg only. They do not describe the catalog.
_PYICEBERG_ONLY = (
    "py-",
    "pool_pre_ping",
    "echo",
    "init_catalog_tables",
    "downcast-ns-timestamp-to-us-on-write",
)

#: Parameters of libpq -> names in the JDBC driver. The driver ignores unknown parameters.
_JDBC_NAMES = {
    "application_name": "ApplicationName",
    "channel_binding": "channelBinding",
    "connect_timeout": "connectTimeout",
    "gssencmode": "gssEncMode",
    "keepalives": "tcpKeepAlive",
    "krbsrvname": "kerberosServerName",
    "target_session_attrs": "targetServerType",
}
_JDBC_VALUES = {
    "targetServerType": {
        "read-write": "primary",
        "read-only": "secondary",
        "prefer-standby": "preferSecondary",
    },
    "tcpKeepAlive": {"1": "true", "0": "false"},
}


@dataclass(frozen=True)
class SparkCatalog:
    """A catalog for Spark.

    Attributes:
        config: Spark's configuration, with the secrets of the catalog.
        packages: Maven coordinates of the required jars.
    """

    config: dict[str, str]
    packages: tuple[str, ...]


def spark_catalog(name: str, properties: Mapping[str, str]) -> SparkCatalog:
    """Convert the properties of a catalog.

    Args:
        name: the catalog's name in both libraries. SQL catalogs store it with each table.
        properties: PyIceberg's properties.

    Raises:
        UsageError: Spark cannot open this kind of catalog, or not at this address.
    """
    kind = _catalog_type(properties)
    packages, io = [ICEBERG_RUNTIME], _file_io(kind, properties)
    if kind == "sql":
        url = _database_url(properties["uri"])
        packages.append(JDBC_DRIVERS[url.get_backend_name()])
        own = {"type": "jdbc", "jdbc.schema-version": "V1", **_jdbc_properties(url)}
    else:
        own = {"type": kind, **_rest_properties(properties)}
    if _needs_aws(kind, properties):
        packages.append(ICEBERG_AWS)
    shared = {key: value for key, value in properties.items() if key.startswith(_SHARED_PREFIXES)}
    catalog = {**shared, **io, **own, **_s3_properties(properties)}
    prefix = f"spark.sql.catalog.{name}"
    config = {prefix: "org.apache.iceberg.spark.SparkCatalog"}
    return SparkCatalog(config | {f"{prefix}.{key}": catalog[key] for key in catalog}, tuple(packages))


def _catalog_type(properties: Mapping[str, str]) -> str:
    """The type of the catalog, by PyIceberg's rules: the property `type`, else the scheme of the uri."""
    uri = properties.get("uri", "")
    scheme = uri.split(":", 1)[0].lower()
    kind = properties.get("type", "").lower()
    if not kind:
        kind = {"http": "rest", "https": "rest", "thrift": "hive"}.get(scheme, "sql")
    if kind in _SAME_TYPE or (kind == "sql" and scheme.split("+", 1)[0] in JDBC_DRIVERS):
        return kind
    description = f"a SQL catalog on {scheme or 'no database'}" if kind == "sql" else f"of the type {kind}"
    raise UsageError(
        f"Spark on this machine cannot open the catalog, which is {description}. It opens SQL catalogs on "
        f"{' and '.join(JDBC_DRIVERS)}, and catalogs of the types {', '.join(sorted(_SAME_TYPE))}. Unset "
        "SPARK_REMOTE to compute in this process, or set it to a Spark Connect server that has the catalog"
    )


def _database_url(uri: str) -> URL:
    try:
        return make_url(uri)
    except (ArgumentError, ValueError):
        # The library's message would repeat the address with the password.
        raise UsageError(
            "the catalog's uri is not the address of a database: write it as "
            "postgresql+psycopg2://user:password@host:5432/database, what is special in them percent-encoded"
        ) from None


def _jdbc_properties(url: URL) -> dict[str, str]:
    """Convert a database address to JDBC properties. Logs show only the uri, which has no secrets."""
    if url.get_backend_name() == "sqlite":
        return {"uri": f"jdbc:sqlite:{_sqlite_path(url.database or '')}"}
    query = {key: value if isinstance(value, str) else value[-1] for key, value in url.query.items()}
    query.pop("host", None)
    port = query.pop("port", None)
    hosts = [_host(url.host, url.port or port)] if url.host else _query_hosts(url, port)
    if not hosts:
        raise UsageError(
            "Spark reaches Postgres by TCP only, and the catalog's uri names no host, or the folder of a "
            "socket: write it as postgresql+psycopg2://user:password@host:5432/database"
        )
    named = {"user": url.username, "password": url.password}
    converted = {f"jdbc.{key}": value for key, value in named.items() if value}
    for key, value in query.items():
        jdbc_name = _JDBC_NAMES.get(key, key)
        converted[f"jdbc.{jdbc_name}"] = _JDBC_VALUES.get(jdbc_name, {}).get(value, value)
    return converted | {"uri": f"jdbc:postgresql://{','.join(hosts)}/{quote(url.database or '', safe='')}"}


def _query_hosts(url: URL, port: str | None) -> list[str]:
    """The hosts of an address with a list of hosts, as `?host=a:5432&host=b:5432`."""
    hosts = url.query.get("host", ())
    listed = [hosts] if isinstance(hosts, str) else hosts
    parts = [part for entry in listed for part in entry.split(",") if part and not part.startswith("/")]
    return [part if ":" in part else _host(part, port) for part in parts]


def _host(host: str, port: int | str | None) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port or _POSTGRES_PORT}"


def _sqlite_path(path: str) -> str:
    """Quote a database path for the JDBC driver. For the driver, parameters begin at a question mark."""
    return f"file:{quote(path)}" if set(path) & set("?#%") else path


def _rest_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """The properties of the catalog itself: address, credential, token, scope, headers, signing."""
    converted = {
        key: value
        for key, value in properties.items()
        if key != "type" and not key.startswith((*_PYICEBERG_ONLY, "s3."))
    }
    if _is_true(properties.get("rest.sigv4-enabled")):
        converted.setdefault("rest.auth.type", "sigv4")
    return converted


def _file_io(kind: str, properties: Mapping[str, str]) -> dict[str, str]:
    """The class that reads table files. Without the property, a REST catalog selects it by location."""
    if "io-impl" in properties:
        return {}
    is_local = _is_local(properties.get("warehouse", ""))
    if _is_s3(properties) or (not is_local and _any(properties, ("s3.", "client."))):
        return {"io-impl": _S3_FILE_IO}
    return {"io-impl": _S3_FILE_IO} if kind == "glue" else {}


def _needs_aws(kind: str, properties: Mapping[str, str]) -> bool:
    """Whether tables may be on S3. The warehouse of a REST catalog is often a name without a scheme."""
    if kind == "glue" or _is_s3(properties) or _is_true(properties.get("rest.sigv4-enabled")):
        return True
    warehouse = properties.get("warehouse", "")
    if _is_local(warehouse):
        return False
    is_named = kind == "rest" and bool(warehouse) and "://" not in warehouse
    return is_named or _any(properties, ("s3.", "client."))


def _is_s3(properties: Mapping[str, str]) -> bool:
    return properties.get("warehouse", "").startswith(("s3://", "s3a://", "s3n://"))


def _is_local(warehouse: str) -> bool:
    return warehouse.startswith(("file:", "/"))


def _any(names: Iterable[str], prefixes: tuple[str, ...]) -> bool:
    return any(name.startswith(prefixes) for name in names)


def _s3_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """Convert S3 properties whose names differ between PyIceberg and Java's Iceberg."""
    converted: dict[str, str] = {}
    for key in ("access-key-id", "secret-access-key", "session-token"):
        if value := properties.get(f"s3.{key}") or properties.get(f"client.{key}"):
            converted[f"s3.{key}"] = value
    region = properties.get("s3.region") or properties.get("client.region")
    if region:
        converted["client.region"] = region
    virtual, has_endpoint = properties.get("s3.force-virtual-addressing"), "s3.endpoint" in properties
    if "s3.path-style-access" not in properties and (virtual is not None or has_endpoint):
        # By default, PyIceberg addresses a bucket by path if an endpoint is set.
        is_virtual = _is_true(virtual) or not has_endpoint
        converted["s3.path-style-access"] = str(not is_virtual).lower()
    if _is_true(properties.get("s3.anonymous")):
        converted["client.credentials-provider"] = _ANONYMOUS_PROVIDER
    if properties.get("s3.signer"):
        converted["s3.remote-signing-enabled"] = "true"
    if proxy := properties.get("s3.proxy-uri"):
        converted["http-client.proxy-endpoint"] = proxy
    return converted | _role_properties(properties, region)


def _role_properties(properties: Mapping[str, str], region: str | None) -> dict[str, str]:
    role = properties.get("s3.role-arn") or properties.get("client.role-arn")
    if not role:
        return {}
    converted = {
        "client.factory": "org.apache.iceberg.aws.AssumeRoleAwsClientFactory",
        "client.assume-role.arn": role,
    }
    if region:
        converted["client.assume-role.region"] = region
    name = properties.get("s3.role-session-name") or properties.get("client.role-session-name")
    return converted | ({"client.assume-role.session-name": name} if name else {})


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in {"true", "1", "yes", "on", "t", "y"}

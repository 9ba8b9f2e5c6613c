"""From PyIceberg's properties of a catalog to Spark's configuration of the same catalog. A pure function.

Properties that both know under one name are passed on. Those of a SQL catalog become JDBC's, and those of S3
get Iceberg's names in Java. Where the configuration goes is in `local_spark`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from k2_ohlcv.domain.errors import UsageError

#: The newest Iceberg runtime for Spark is built for 4.1, and pyspark stays there with it.
ICEBERG_RUNTIME = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0"
ICEBERG_AWS = "org.apache.iceberg:iceberg-aws-bundle:1.12.0"
JDBC_DRIVERS = {
    "sqlite": "org.xerial:sqlite-jdbc:3.50.3.0",
    "postgresql": "org.postgresql:postgresql:42.7.8",
}
_S3_FILE_IO = "org.apache.iceberg.aws.s3.S3FileIO"
_POSTGRES_PORT = 5432

#: Catalogs that Spark knows under the name that PyIceberg gives them.
_SAME_TYPE = {"rest", "hive", "glue"}
#: What both libraries call alike, in any catalog.
_SHARED_PREFIXES = ("s3.", "client.", "http-client.", "io-impl", "warehouse")
#: PyIceberg's own: how it runs, not where the catalog is.
_PYICEBERG_ONLY = (
    "py-",
    "pool_pre_ping",
    "echo",
    "init_catalog_tables",
    "downcast-ns-timestamp-to-us-on-write",
)

#: libpq's names of what the JDBC driver calls otherwise. The driver ignores what it does not know.
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
    """A catalog as Spark is told of it.

    Attributes:
        config: Spark's configuration. It holds the secrets of the catalog.
        packages: Maven coordinates of the jars that it needs.
    """

    config: dict[str, str]
    packages: tuple[str, ...]


def spark_catalog(name: str, properties: Mapping[str, str]) -> SparkCatalog:
    """Translate the properties of a catalog.

    Args:
        name: the catalog's name, the same in both: SQL catalogs store it beside each table.
        properties: PyIceberg's.

    Raises:
        UsageError: Spark cannot open this kind of catalog, or not by this address.
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
    """The kind of catalog, by the rules of PyIceberg: what is said, else what the address tells."""
    uri = properties.get("uri", "")
    scheme = uri.split(":", 1)[0].lower()
    kind = properties.get("type", "").lower()
    if not kind:
        kind = {"http": "rest", "https": "rest", "thrift": "hive"}.get(scheme, "sql")
    if kind == "sql" and scheme.split("+", 1)[0] in JDBC_DRIVERS:
        return kind
    if kind in _SAME_TYPE:
        return kind
    found = f"a SQL catalog on {scheme or 'no database'}" if kind == "sql" else f"of the type {kind}"
    raise UsageError(
        f"Spark on this machine cannot open the catalog, which is {found}. It opens SQL catalogs on "
        f"{' and '.join(JDBC_DRIVERS)}, and catalogs of the types {', '.join(sorted(_SAME_TYPE))}. Unset "
        "SPARK_REMOTE to compute in this process, or set it to a Spark Connect server that has the catalog"
    )


def _database_url(uri: str) -> URL:
    try:
        return make_url(uri)
    except (ArgumentError, ValueError):
        # The library's own words repeat the address, with the password.
        raise UsageError(
            "the catalog's uri is not the address of a database: write it as "
            "postgresql+psycopg2://user:password@host:5432/database, what is special in them percent-encoded"
        ) from None


def _jdbc_properties(url: URL) -> dict[str, str]:
    """A database's address as JDBC has it. User, password and parameters stand apart: no log shows them."""
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
    found = {f"jdbc.{key}": value for key, value in named.items() if value}
    for key, value in query.items():
        ours = _JDBC_NAMES.get(key, key)
        found[f"jdbc.{ours}"] = _JDBC_VALUES.get(ours, {}).get(value, value)
    return found | {"uri": f"jdbc:postgresql://{','.join(hosts)}/{quote(url.database or '', safe='')}"}


def _query_hosts(url: URL, port: str | None) -> list[str]:
    """The hosts of an address that lists several, as `?host=a:5432&host=b:5432`."""
    hosts = url.query.get("host", ())
    listed = [hosts] if isinstance(hosts, str) else hosts
    parts = [part for each in listed for part in each.split(",") if part and not part.startswith("/")]
    return [part if ":" in part else _host(part, port) for part in parts]


def _host(host: str, port: int | str | None) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port or _POSTGRES_PORT}"


def _sqlite_path(path: str) -> str:
    """A database's path for the JDBC driver, which takes what follows a question mark for parameters."""
    return f"file:{quote(path)}" if set(path) & set("?#%") else path


def _rest_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """All that is the catalog's own: address, credential, token, scope, headers, signing."""
    found = {
        key: value
        for key, value in properties.items()
        if key != "type" and not key.startswith((*_PYICEBERG_ONLY, "s3."))
    }
    if _is_true(properties.get("rest.sigv4-enabled")):
        found.setdefault("rest.auth.type", "sigv4")
    return found


def _file_io(kind: str, properties: Mapping[str, str]) -> dict[str, str]:
    """The class that reads the tables' files. A REST catalog chooses it by location if nothing is said."""
    if "io-impl" in properties:
        return {}
    is_local = _is_local(properties.get("warehouse", ""))
    if _is_s3(properties) or (not is_local and _any(properties, ("s3.", "client."))):
        return {"io-impl": _S3_FILE_IO}
    return {"io-impl": _S3_FILE_IO} if kind == "glue" else {}


def _needs_aws(kind: str, properties: Mapping[str, str]) -> bool:
    """Whether tables may be on S3. The warehouse of a REST catalog is often a name that says nothing."""
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
    """S3's properties under the names of Iceberg in Java, where those of PyIceberg differ."""
    found: dict[str, str] = {}
    for key in ("access-key-id", "secret-access-key", "session-token"):
        if value := properties.get(f"s3.{key}") or properties.get(f"client.{key}"):
            found[f"s3.{key}"] = value
    region = properties.get("s3.region") or properties.get("client.region")
    if region:
        found["client.region"] = region
    if "s3.path-style-access" not in properties and (
        "s3.force-virtual-addressing" in properties or "s3.endpoint" in properties
    ):
        # PyIceberg addresses a bucket by path where there is an endpoint, unless told otherwise.
        is_virtual = (
            _is_true(properties.get("s3.force-virtual-addressing")) or "s3.endpoint" not in properties
        )
        found["s3.path-style-access"] = str(not is_virtual).lower()
    if _is_true(properties.get("s3.anonymous")):
        found["client.credentials-provider"] = (
            "software.amazon.awssdk.auth.credentials.AnonymousCredentialsProvider"
        )
    if properties.get("s3.signer"):
        found["s3.remote-signing-enabled"] = "true"
    if proxy := properties.get("s3.proxy-uri"):
        found["http-client.proxy-endpoint"] = proxy
    return found | _role_properties(properties, region)


def _role_properties(properties: Mapping[str, str], region: str | None) -> dict[str, str]:
    role = properties.get("s3.role-arn") or properties.get("client.role-arn")
    if not role:
        return {}
    found = {
        "client.factory": "org.apache.iceberg.aws.AssumeRoleAwsClientFactory",
        "client.assume-role.arn": role,
    }
    if region:
        found["client.assume-role.region"] = region
    name = properties.get("s3.role-session-name") or properties.get("client.role-session-name")
    return found | ({"client.assume-role.session-name": name} if name else {})


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in {"true", "1", "yes", "on", "t", "y"}

"""Each kind of catalog that PyIceberg opens is told to Spark whole, or refused in words."""

import pytest

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.engine.spark_catalog import ICEBERG_AWS, JDBC_DRIVERS, spark_catalog

S3_FILE_IO = "org.apache.iceberg.aws.s3.S3FileIO"
POSTGRES = {
    "type": "jdbc",
    "jdbc.schema-version": "V1",
    "uri": "jdbc:postgresql://db:5432/k2",
}


def told(properties: dict[str, str]) -> dict[str, str]:
    """What Spark is told, without the prefix and the catalog's class."""
    config = spark_catalog("k2", properties).config
    assert config.pop("spark.sql.catalog.k2") == "org.apache.iceberg.spark.SparkCatalog"
    assert all(key.startswith("spark.sql.catalog.k2.") for key in config)
    return {key.removeprefix("spark.sql.catalog.k2."): value for key, value in config.items()}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql+psycopg2://db/k2", POSTGRES),
        (
            "postgresql+psycopg2://m%40e:p%2Fs%3A%25%20w%C3%B6@db:6000/k2",
            {
                **POSTGRES,
                "uri": "jdbc:postgresql://db:6000/k2",
                "jdbc.user": "m@e",
                "jdbc.password": "p/s:% wö",
            },
        ),
        (
            "postgresql://db/k2?sslmode=verify-full&sslrootcert=/etc/ca%20.pem&connect_timeout=5",
            {
                **POSTGRES,
                "jdbc.sslmode": "verify-full",
                "jdbc.sslrootcert": "/etc/ca .pem",
                "jdbc.connectTimeout": "5",
            },
        ),
        (
            "postgresql+psycopg://db/k2?target_session_attrs=read-write",
            {**POSTGRES, "jdbc.targetServerType": "primary"},
        ),
        (
            "postgresql://db/k2?user=me&password=s%26t",
            {**POSTGRES, "jdbc.user": "me", "jdbc.password": "s&t"},
        ),
        ("postgresql://[::1]:5433/k2", {**POSTGRES, "uri": "jdbc:postgresql://[::1]:5433/k2"}),
        ("postgresql:///k2?host=a:1&host=b:2", {**POSTGRES, "uri": "jdbc:postgresql://a:1,b:2/k2"}),
        ("postgresql://db/k 2?", {**POSTGRES, "uri": "jdbc:postgresql://db:5432/k%202"}),
        (
            "sqlite:////lake/catalog.db?timeout=60",
            {"type": "jdbc", "jdbc.schema-version": "V1", "uri": "jdbc:sqlite:/lake/catalog.db"},
        ),
    ],
)
def test_a_sql_catalog(uri: str, expected: dict[str, str]) -> None:
    """The secrets are apart from the address, decoded, and every parameter arrives."""
    for properties in ({"uri": uri}, {"type": "sql", "uri": uri}):
        assert told(properties) == expected
    assert spark_catalog("k2", {"uri": uri}).packages[1] in JDBC_DRIVERS.values()


def test_a_rest_catalog_keeps_all_that_is_its_own() -> None:
    own = {
        "uri": "https://catalog/api",
        "credential": "id:SECRET",
        "token": "SECRET",
        "scope": "PRINCIPAL_ROLE:ALL",
        "oauth2-server-uri": "https://login/token",
        "audience": "lake",
        "header.X-Tenant": "7",
        "header.X-Iceberg-Access-Delegation": "vended-credentials",
        "prefix": "p",
        "warehouse": "prod",
    }
    assert told({**own, "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}) == {"type": "rest", **own}


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"s3.region": "eu-west-1"}, {"client.region": "eu-west-1"}),
        ({"client.region": "eu-west-1"}, {"client.region": "eu-west-1"}),
        (
            {"s3.endpoint": "http://s3:9000"},
            {"s3.endpoint": "http://s3:9000", "s3.path-style-access": "true"},
        ),
        (
            {"s3.endpoint": "http://s3:9000", "s3.force-virtual-addressing": "True"},
            {"s3.path-style-access": "false"},
        ),
        ({"s3.force-virtual-addressing": "false"}, {"s3.path-style-access": "false"}),
        ({"s3.endpoint": "http://s3", "s3.path-style-access": "false"}, {"s3.path-style-access": "false"}),
        (
            {"client.access-key-id": "K", "client.secret-access-key": "S", "client.session-token": "T"},
            {"s3.access-key-id": "K", "s3.secret-access-key": "S", "s3.session-token": "T"},
        ),
        (
            {"s3.access-key-id": "K", "client.access-key-id": "L"},
            {"s3.access-key-id": "K"},
        ),
        ({"s3.signer": "S3V4RestSigner"}, {"s3.remote-signing-enabled": "true"}),
        ({"s3.proxy-uri": "http://p"}, {"http-client.proxy-endpoint": "http://p"}),
        (
            {"s3.role-arn": "arn:x", "s3.region": "r"},
            {"client.assume-role.arn": "arn:x", "client.assume-role.region": "r"},
        ),
    ],
)
@pytest.mark.parametrize("warehouse", ["s3://lake/warehouse", "prod"])
@pytest.mark.parametrize("uri", ["https://catalog", "postgresql://db/k2"])
def test_s3_under_the_names_of_java(
    uri: str, warehouse: str, properties: dict[str, str], expected: dict[str, str]
) -> None:
    """With the jar and the class that read S3, also where the warehouse is a name."""
    whole = {"uri": uri, "warehouse": warehouse, **properties}
    found = told(whole)
    assert expected.items() <= found.items()
    assert found["io-impl"] == S3_FILE_IO
    assert found["warehouse"] == warehouse
    assert ICEBERG_AWS in spark_catalog("k2", whole).packages


@pytest.mark.parametrize(
    ("properties", "needs_aws"),
    [
        ({"uri": "https://catalog", "warehouse": "prod"}, True),
        ({"uri": "https://catalog", "warehouse": "file:///lake"}, False),
        ({"uri": "https://catalog", "rest.sigv4-enabled": "true"}, True),
        ({"uri": "postgresql://db/k2", "warehouse": "file:///lake"}, False),
        ({"type": "glue"}, True),
    ],
)
def test_the_aws_jar_where_tables_may_be_on_s3(properties: dict[str, str], needs_aws: bool) -> None:
    """A REST catalog without keys of ours may give out some, and chooses the class by location."""
    assert (ICEBERG_AWS in spark_catalog("k2", properties).packages) is needs_aws


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({"uri": "mysql+pymysql://me:SECRET@db/k2"}, "a SQL catalog on mysql"),
        ({"type": "sql", "uri": "oracle://me:SECRET@db/k2"}, "a SQL catalog on oracle"),
        ({"type": "dynamodb"}, "of the type dynamodb"),
        ({"type": "in-memory"}, "of the type in-memory"),
    ],
)
def test_what_spark_cannot_open_is_named_with_what_it_can(properties: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named) as raised:
        spark_catalog("k2", properties)
    assert "sqlite and postgresql" in str(raised.value)
    assert "glue, hive, rest" in str(raised.value)
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql:///k2",
        "postgresql:///k2?host=/var/run",
        "postgresql://me:SECRET@db:port/k2",
        "postgresql:",
    ],
)
def test_an_address_that_jdbc_cannot_have(uri: str) -> None:
    with pytest.raises(UsageError, match=r"write it as postgresql\+psycopg2://") as raised:
        spark_catalog("k2", {"type": "sql", "uri": uri})
    assert "SECRET" not in str(raised.value)
    assert raised.value.__cause__ is None

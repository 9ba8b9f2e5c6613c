"""Opens the catalog and loads the tables by role. Each loaded table is verified against its spec.

Reading a missing table creates nothing. The rows of the tables are in `trades` and `candles`, the comparison
of two snapshots in `metadata.snapshot_diff`.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.utils.config import Config

from k2_ohlcv.domain.errors import TableSpecError, UsageError
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake.embedded_catalog import embedded_properties, open_embedded
from k2_ohlcv.lake.external_trades import ExternalTradesConfig, read_only_error
from k2_ohlcv.lake.external_verification import verify_external_trades
from k2_ohlcv.lake.missing_table import MissingTable, choose_free_location
from k2_ohlcv.lake.schemas import CANDLE_SPECS, NAMESPACE, REJECTED_SPEC, TRADES_SPEC, TableSpec
from k2_ohlcv.settings import Settings

CATALOG = "k2"


def catalog_properties(settings: Settings) -> dict[str, str]:
    """The properties of the catalog `k2`: from PyIceberg's configuration, else for the embedded catalog.

    Raises:
        UsageError: the address of the warehouse has a user or a password.
    """
    configured = Config().get_catalog_config(CATALOG)
    if configured:
        properties = {str(key): str(value) for key, value in configured.items()}
        if "@" in urlsplit(properties.get("warehouse", "")).netloc:
            # Every table's metadata and many messages of libraries repeat this address.
            raise UsageError(
                "the warehouse of the catalog k2 has a user or a password in its address: set them as "
                "s3.access-key-id and s3.secret-access-key"
            )
        return properties
    return embedded_properties(settings)


@dataclass(frozen=True)
class Lake:
    """The tables, by role. Each call loads the current version of the table from the catalog.

    Attributes:
        catalog: the Iceberg catalog.
        source: the external trades table to read; None means the project's own trades table.
    """

    catalog: Catalog
    source: ExternalTradesConfig | None = None

    @classmethod
    def open(cls, settings: Settings) -> "Lake":
        """Open the lake that the settings and PyIceberg's configuration name.

        For the embedded catalog the folder `K2_HOME` is created where it is missing.
        """
        properties = catalog_properties(settings)
        if properties == embedded_properties(settings):
            return cls(open_embedded(CATALOG, settings), ExternalTradesConfig.from_settings(settings))
        return cls(load_catalog(CATALOG, **properties), ExternalTradesConfig.from_settings(settings))

    @property
    def has_own_trades(self) -> bool:
        """Whether the trades table is the project's own, which ingestion writes."""
        return self.source is None

    def trades(self) -> Table:
        """Load the trades table. Candles are computed from this table alone.

        A missing table of the project reads as empty. An external table is verified, and its columns are
        mapped to the project's names.

        Raises:
            TableSpecError: the table differs from its spec, or the external table is missing or unusable.
        """
        return (
            self._load_for_reading(TRADES_SPEC)
            if self.source is None
            else self._load_external_trades(self.source)
        )

    def writable_trades(self) -> Table:
        """Load the project's own trades table, and create it where it is missing. For ingestion only.

        Raises:
            UsageError: trades are read from an external table, which is never written to.
        """
        self.reject_external_trades()
        return self._load_for_writing(TRADES_SPEC)

    def reject_external_trades(self) -> None:
        """Refuse to write to an external trades table. Creates no table.

        Raises:
            UsageError: trades are read from an external table, which is never written to.
        """
        if self.source is not None:
            raise read_only_error(self.source.identifier)

    def candles(self, timeframe: Timeframe) -> Table:
        """Load the candle table of a timeframe. A missing table reads as empty."""
        return self._load_for_reading(CANDLE_SPECS[timeframe.name])

    def writable_candles(self, timeframe: Timeframe) -> Table:
        """Load the candle table of a timeframe, and create it where it is missing."""
        return self._load_for_writing(CANDLE_SPECS[timeframe.name])

    def rejected(self) -> Table:
        """Load the table of rejected rows. A missing table reads as empty."""
        return self._load_for_reading(REJECTED_SPEC)

    def writable_rejected(self) -> Table:
        """Load the table of rejected rows, and create it where it is missing."""
        return self._load_for_writing(REJECTED_SPEC)

    def _load_for_reading(self, spec: TableSpec) -> Table:
        try:
            table = self.catalog.load_table(spec.identifier)
        except (NoSuchTableError, NoSuchNamespaceError):
            return MissingTable(spec, self.catalog)
        verify_table(table, spec)
        return table

    def _load_for_writing(self, spec: TableSpec) -> Table:
        table = self._load_for_reading(spec)
        if isinstance(table, MissingTable):
            table = self._create_table(spec)
            verify_table(table, spec)
        return table

    def _load_external_trades(self, source: ExternalTradesConfig) -> Table:
        try:
            table = self.catalog.load_table(source.identifier)
        except (NoSuchTableError, NoSuchNamespaceError):
            raise TableSpecError(
                f"there is no table {source.name} in the catalog {CATALOG}: set K2_TRADES_TABLE to the "
                "namespace and name of the trades table, or unset it to use the project's own table"
            ) from None
        return verify_external_trades(table, source)

    def _create_table(self, spec: TableSpec) -> Table:
        try:
            self.catalog.create_namespace_if_not_exists(NAMESPACE)
        except Exception:
            # Another process may have created the namespace. A SQL catalog then raises an error of its own.
            if not self.catalog.namespace_exists(NAMESPACE):
                raise
        try:
            return self.catalog.create_table(
                spec.identifier,
                spec.schema,
                location=choose_free_location(self.catalog, spec),
                partition_spec=spec.partition_spec,
                sort_order=spec.sort_order,
                properties=spec.properties,
            )
        except TableAlreadyExistsError:
            return self.catalog.load_table(spec.identifier)  # another process created the table


def verify_table(table: Table, spec: TableSpec) -> None:
    """Compare a table with its spec.

    Raises:
        TableSpecError: columns, types, order or partitions differ; the message names every difference.
    """
    differences = _column_differences(table.schema(), spec.schema)
    stored = _partition_fields(table.spec(), table.schema())
    specified = _partition_fields(spec.partition_spec, spec.schema)
    if stored != specified:
        differences.append(f"it is partitioned by {stored or 'nothing'}, not by {specified}")
    for name in ("commit.retry.num-retries",):
        if table.properties.get(name) != spec.properties[name]:
            differences.append(
                f"property {name} is {table.properties.get(name)}, not {spec.properties[name]}"
            )
    if differences:
        raise TableSpecError(
            f"table {'.'.join(table.name())} is not what this project writes: {'; '.join(differences)}. "
            "Move it away or restore it; it is not altered."
        )


def _column_differences(stored: Schema, specified: Schema) -> list[str]:
    def column_types(schema: Schema) -> dict[str, str]:
        return {f.name: f"{f.field_type}{' required' if f.required else ''}" for f in schema.fields}

    actual, expected = column_types(stored), column_types(specified)
    differences = [f"column {name} is missing" for name in expected if name not in actual]
    differences += [f"column {name} is unknown" for name in actual if name not in expected]
    differences += [
        f"column {name} is {actual[name]}, not {expected[name]}"
        for name in expected
        if name in actual and actual[name] != expected[name]
    ]
    if not differences and list(actual) != list(expected):
        differences.append(f"the columns are in the order {', '.join(actual)}, not {', '.join(expected)}")
    return differences


def _partition_fields(spec: PartitionSpec, schema: Schema) -> str:
    return ", ".join(f"{f.transform}({schema.find_column_name(f.source_id)})" for f in spec.fields)

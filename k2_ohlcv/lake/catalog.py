"""The lake: which catalog, and its tables, held to their contracts. Reading a missing one creates nothing.

What is in the tables, and how they change, is in `trades`, `changes` and `candles`.
"""

from dataclasses import dataclass

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

from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.timeframe import Timeframe
from k2_ohlcv.lake.embedded_catalog import embedded_properties, open_embedded
from k2_ohlcv.lake.external_trades import ExternalTradesConfig, read_only_error, verify_external_trades
from k2_ohlcv.lake.missing_table import MissingTable, choose_free_location
from k2_ohlcv.lake.schemas import CANDLE_SPECS, NAMESPACE, REJECTED_SPEC, TRADES_SPEC, TableSpec
from k2_ohlcv.settings import Settings

CATALOG = "k2"


def catalog_properties(settings: Settings) -> dict[str, str]:
    """The properties of the catalog `k2`: PyIceberg's own configuration, else the embedded one."""
    configured = Config().get_catalog_config(CATALOG)
    if configured:
        return {str(key): str(value) for key, value in configured.items()}
    return embedded_properties(settings)


@dataclass(frozen=True)
class Lake:
    """The tables, by role. Each call loads the table anew, as the catalog has it now.

    Attributes:
        catalog: where they are.
        source: whose trades table is read; None means our own.
    """

    catalog: Catalog
    source: ExternalTradesConfig | None = None

    @classmethod
    def open(cls, settings: Settings) -> "Lake":
        """The lake that the settings and PyIceberg's configuration name; makes `K2_HOME` if needed."""
        properties = catalog_properties(settings)
        if properties == embedded_properties(settings):
            return cls(open_embedded(CATALOG, settings), ExternalTradesConfig.from_settings(settings))
        return cls(load_catalog(CATALOG, **properties), ExternalTradesConfig.from_settings(settings))

    @property
    def has_own_trades(self) -> bool:
        """Whether the trades table is ours to write."""
        return self.source is None

    def trades(self) -> Table:
        """The trades: the truth. Someone else's table is verified, and knows which of its columns are ours.

        Our own table reads as empty where there is none.

        Raises:
            ContractError: the table is not what its contract says, or theirs is not there or will not do.
        """
        return (
            self._load_for_reading(TRADES_SPEC)
            if self.source is None
            else self._load_external_trades(self.source)
        )

    def writable_trades(self) -> Table:
        """Our own trades table, created where there is none. For ingestion only.

        Raises:
            UsageError: trades are someone else's, and never written to.
        """
        self.reject_external_trades()
        return self._load_for_writing(TRADES_SPEC)

    def reject_external_trades(self) -> None:
        """Refuse to write to someone else's trades. Creates no table.

        Raises:
            UsageError: trades are someone else's, and never written to.
        """
        if self.source is not None:
            raise read_only_error(self.source.identifier)

    def candles(self, timeframe: Timeframe) -> Table:
        """The candles of a timeframe. The table reads as empty where there is none."""
        return self._load_for_reading(CANDLE_SPECS[timeframe.name])

    def writable_candles(self, timeframe: Timeframe) -> Table:
        """The candle table of a timeframe, created where there is none."""
        return self._load_for_writing(CANDLE_SPECS[timeframe.name])

    def rejected(self) -> Table:
        """The rows that ingestion refused. The table reads as empty where there is none."""
        return self._load_for_reading(REJECTED_SPEC)

    def writable_rejected(self) -> Table:
        """The table of rows that ingestion refused, created where there is none."""
        return self._load_for_writing(REJECTED_SPEC)

    def _load_for_reading(self, contract: TableSpec) -> Table:
        try:
            table = self.catalog.load_table(contract.identifier)
        except (NoSuchTableError, NoSuchNamespaceError):
            return MissingTable(contract, self.catalog)
        verify_table(table, contract)
        return table

    def _load_for_writing(self, contract: TableSpec) -> Table:
        table = self._load_for_reading(contract)
        if isinstance(table, MissingTable):
            table = self._create_table(contract)
            verify_table(table, contract)
        return table

    def _load_external_trades(self, source: ExternalTradesConfig) -> Table:
        try:
            table = self.catalog.load_table(source.identifier)
        except (NoSuchTableError, NoSuchNamespaceError):
            raise TableSpecError(
                f"there is no table {source.name} in the catalog {CATALOG}: set K2_TRADES_TABLE to the "
                "namespace and name of the trades table, or unset it to use our own"
            ) from None
        return verify_external_trades(table, source)

    def _create_table(self, contract: TableSpec) -> Table:
        try:
            self.catalog.create_namespace_if_not_exists(NAMESPACE)
        except Exception:
            # Another process may have made it after the look. A SQL catalog says so by an error of its own.
            if not self.catalog.namespace_exists(NAMESPACE):
                raise
        try:
            return self.catalog.create_table(
                contract.identifier,
                contract.schema,
                location=choose_free_location(self.catalog, contract),
                partition_spec=contract.partition_spec,
                sort_order=contract.sort_order,
                properties=contract.properties,
            )
        except TableAlreadyExistsError:
            return self.catalog.load_table(contract.identifier)  # another process made it


def verify_table(table: Table, contract: TableSpec) -> None:
    """Hold a table to its contract.

    Raises:
        ContractError: columns, types, order or partitions differ; the message names every difference.
    """
    differences = _column_differences(table.schema(), contract.schema)
    stored, wanted = (
        _partition_fields(table.spec(), table.schema()),
        _partition_fields(contract.partition_spec, contract.schema),
    )
    if stored != wanted:
        differences.append(f"it is partitioned by {stored or 'nothing'}, not by {wanted}")
    for name in ("commit.retry.num-retries",):
        if table.properties.get(name) != contract.properties[name]:
            differences.append(
                f"property {name} is {table.properties.get(name)}, not {contract.properties[name]}"
            )
    if differences:
        raise TableSpecError(
            f"table {'.'.join(table.name())} is not what this project writes: {'; '.join(differences)}. "
            "Move it away or restore it; it is not altered."
        )


def _column_differences(stored: Schema, wanted: Schema) -> list[str]:
    def columns(schema: Schema) -> dict[str, str]:
        return {f.name: f"{f.field_type}{' required' if f.required else ''}" for f in schema.fields}

    have, want = columns(stored), columns(wanted)
    differences = [f"column {name} is missing" for name in want if name not in have]
    differences += [f"column {name} is unknown" for name in have if name not in want]
    differences += [
        f"column {n} is {have[n]}, not {want[n]}" for n in want if n in have and have[n] != want[n]
    ]
    if not differences and list(have) != list(want):
        differences.append(f"the columns are in the order {', '.join(have)}, not {', '.join(want)}")
    return differences


def _partition_fields(spec: PartitionSpec, schema: Schema) -> str:
    return ", ".join(f"{f.transform}({schema.find_column_name(f.source_id)})" for f in spec.fields)

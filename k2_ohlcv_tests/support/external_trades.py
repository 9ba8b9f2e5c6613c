"""External trades tables in a lake, opened as the trades of that lake."""

from datetime import UTC, datetime

from pyiceberg.table import Table
from pyiceberg.types import IcebergType

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTrades, ExternalTradesConfig
from k2_ohlcv.lake.metadata.files import live_files
from k2_ohlcv_tests.support import external_tables, table_history

TRADE_TIME = datetime(2024, 5, 17, 13, 45, 30, 123456, tzinfo=UTC)
TRADE_ROW = {
    "exchange": "X",
    "symbol": "A",
    "trade_id": 1,
    "timestamp": TRADE_TIME,
    "price": 0.5,
    "quantity": 2.0,
}
#: The table property of a writer that stores no column statistics.
NO_BOUNDS = {"write.metadata.metrics.default": "none"}


def open_external_lake(lake: Lake, table: Table, **columns: str) -> Lake:
    """The lake whose trades are in an external table."""
    return Lake(lake.catalog, ExternalTradesConfig(table.name(), tuple(columns.items())))


def open_external_trades(lake: Lake, table: Table) -> ExternalTrades:
    trades = open_external_lake(lake, table).trades()
    assert isinstance(trades, ExternalTrades)
    return trades


def create_timed_table(lake: Lake, kind: IcebergType, value: object, **more: object) -> ExternalTrades:
    """Create and open an external table of one trade whose time column has this type."""
    table = external_tables.create_table(
        lake,
        external_tables.COLUMNS | {"timestamp": kind},
        [TRADE_ROW | {"timestamp": value}],
        **more,  # type: ignore[arg-type]
    )
    return open_external_trades(lake, table)


def only_file_span(table: ExternalTrades) -> Interval:
    (file,) = live_files(table, table_history.current_snapshot_id(table))
    return file.span

"""An external trades table: named by settings, verified on first use, and never written to."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from pyiceberg.types import DateType, DoubleType, FloatType, LongType, StringType
from structlog.testing import capture_logs

from k2_ohlcv.domain.errors import TableSpecError, UsageError
from k2_ohlcv.lake import external_verification
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTrades, ExternalTradesConfig
from k2_ohlcv.settings import Settings
from k2_ohlcv_tests.support import external_tables, lakes
from k2_ohlcv_tests.support.external_trades import TRADE_ROW, open_external_lake


@pytest.fixture(autouse=True)
def _reset_warning() -> Iterator[None]:
    """Log the warning about doubles anew in each test."""
    external_verification._warn_about_doubles.cache_clear()
    yield
    external_verification._warn_about_doubles.cache_clear()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"K2_TRADES_TABLE": "trades"}, r"K2_TRADES_TABLE='trades'.*namespace\.table"),
        ({"K2_TRADES_TABLE": "a..b"}, "namespace.table"),
        ({"K2_TRADES_COLUMNS": "price=p"}, "K2_TRADES_TABLE, which is not set"),
        ({"K2_TRADES_KEPT": "90d"}, "K2_TRADES_TABLE are kept, which is not set: K2_RETENTION_TRADES"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_KEPT": "90"}, "K2_TRADES_KEPT='90' is not a.*such as 30d"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_KEPT": "1d"}, "K2_TRADES_KEPT='1d' is too short"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_COLUMNS": "prize=p"}, "'prize=p'.*one of exchange"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_COLUMNS": "price"}, "'price' is not name=column"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_COLUMNS": "price="}, "'price=' is not name=column"),
        ({"K2_TRADES_TABLE": "a.b", "K2_TRADES_COLUMNS": "price=p,price=q"}, "each once"),
    ],
)
def test_an_invalid_setting_is_refused(environ: Mapping[str, str], message: str) -> None:
    """The error quotes the setting and says what is valid."""
    with pytest.raises(UsageError, match=message):
        Settings.from_environ(environ)


def test_settings_name_the_table_and_its_columns(tmp_path: Path) -> None:
    """Column names may be mapped, and `trade_id` may be empty."""
    environ = {"K2_TRADES_TABLE": "far.away.trades", "K2_TRADES_COLUMNS": " timestamp=at , trade_id= "}
    lake = Lake.open(lakes.lake_settings(tmp_path, **environ))
    assert lake.source == ExternalTradesConfig(
        ("far", "away", "trades"), (("timestamp", "at"), ("trade_id", ""))
    )
    assert not lake.has_own_trades
    assert lakes.open_lake(tmp_path).has_own_trades
    retained = Lake.open(lakes.lake_settings(tmp_path, K2_TRADES_TABLE="a.b", K2_TRADES_KEPT="2w")).source
    assert retained == ExternalTradesConfig(("a", "b"), (), timedelta(weeks=2))


def test_one_error_names_every_wrong_column(lake: Lake) -> None:
    """Missing columns and wrong types are listed together, with the setting that maps columns."""
    columns = {"venue": StringType(), "symbol": LongType(), "price": FloatType(), "timestamp": DateType()}
    table = external_tables.create_table(lake, columns)
    with pytest.raises(TableSpecError) as caught:
        open_external_lake(lake, table, exchange="venue", quantity="size", trade_id="seq").trades()
    message = str(caught.value)
    for part in (
        "column symbol for symbol is long, and must be a string",
        "column price for price is float, and must be a decimal or a double",
        "column timestamp for timestamp is date, and must be a timestamp with or without zone, or a long",
        "there is no column size for quantity: set quantity=<the column's name>",
        "there is no column seq for trade_id",
        "Its columns are venue, symbol, price, timestamp",
        "K2_TRADES_COLUMNS",
    ):
        assert part in message
    assert "exchange:" not in message


def test_a_missing_table_is_named(lake: Lake) -> None:
    """The error names the catalog and the setting."""
    with pytest.raises(TableSpecError, match=r"no table far\.away in the catalog k2: set K2_TRADES_TABLE"):
        Lake(lake.catalog, ExternalTradesConfig(("far", "away"))).trades()


def test_only_ids_may_be_missing(lake: Lake) -> None:
    """A table without ids, or a setting without ids, is read without `trade_id`."""
    columns = {name: kind for name, kind in external_tables.COLUMNS.items() if name != "trade_id"}
    trades = open_external_lake(lake, external_tables.create_table(lake, columns)).trades()
    assert isinstance(trades, ExternalTrades)
    assert trades.field("trade_id") is None
    without_ids = open_external_lake(
        lake, external_tables.create_table(lake, external_tables.COLUMNS), trade_id=""
    ).trades()
    assert isinstance(without_ids, ExternalTrades)
    assert without_ids.field("trade_id") is None


def test_doubles_are_logged_once(lake: Lake) -> None:
    """The log entry names the columns."""
    external_lake = open_external_lake(lake, external_tables.create_table(lake, external_tables.COLUMNS))
    with capture_logs() as logs:
        external_lake.trades()
        external_lake.trades()
    assert [(line["event"], line["columns"]) for line in logs] == [
        ("doubles are read as decimals", "price, quantity")
    ]


def test_nothing_is_ever_written_to_it(lake: Lake) -> None:
    """Writing raises, and the table has no new snapshot."""
    table = external_tables.create_table(lake, external_tables.COLUMNS, [TRADE_ROW])
    external_lake = open_external_lake(lake, table)
    with pytest.raises(UsageError, match="is an external table and is never written to"):
        external_lake.writable_trades()
    with pytest.raises(UsageError, match="is an external table"):
        external_lake.trades().append(table.scan().to_arrow())
    assert len(table.refresh().snapshots()) == 1
    assert lake.writable_trades().name() == lake.trades().name()


def test_columns_that_differ_only_in_case_are_refused_by_name(lake: Lake) -> None:
    """Engines would read them as one column. Unused columns may differ only in case."""
    with pytest.raises(TableSpecError, match="columns price and Price differ only in case"):
        open_external_lake(
            lake, external_tables.create_table(lake, external_tables.COLUMNS | {"Price": DoubleType()})
        ).trades()
    unused_columns = external_tables.create_table(
        lake, external_tables.COLUMNS | {"note": StringType(), "Note": StringType()}
    )
    assert open_external_lake(lake, unused_columns).trades().name() == unused_columns.name()

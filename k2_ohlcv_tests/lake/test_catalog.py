"""The lake's catalog, and tables that are compared with their specs."""

from dataclasses import replace
from pathlib import Path

import pytest
from pyiceberg.schema import Schema
from pyiceberg.types import DoubleType, NestedField, StringType

from k2_ohlcv.domain.candle import AUDIT_COLUMNS, KEY_COLUMNS, VALUE_COLUMNS
from k2_ohlcv.domain.errors import TableSpecError
from k2_ohlcv.domain.timeframe import TIMEFRAMES, find_timeframe
from k2_ohlcv.frames.candles import CANDLE_TYPES
from k2_ohlcv.lake.catalog import Lake, catalog_properties
from k2_ohlcv.lake.schemas import CANDLE_SPECS, NAMESPACE, TRADES_SPEC
from k2_ohlcv_tests.support import lakes, table_history


def test_tables_are_created_on_first_write(lake: Lake, tmp_path: Path) -> None:
    """Each table has the columns and partitions of its spec. A second lake finds it."""
    uuid = lake.writable_trades().metadata.table_uuid
    second_lake = lakes.open_lake(tmp_path)
    assert second_lake.trades().metadata.table_uuid == uuid
    assert lake.trades().location().startswith((tmp_path / "warehouse").as_uri())
    for timeframe in TIMEFRAMES:
        table = lake.candles(timeframe)
        assert [f.name for f in table.schema().fields] == list(CANDLE_TYPES)
        assert {table.schema().find_column_name(i) for i in table.schema().identifier_field_ids} == set(
            KEY_COLUMNS
        )
        assert table.spec().fields[0].name == f"window_start_{timeframe.grain.value}"
    assert {f.name for f in lake.rejected().schema().fields} >= {"source", "line", "reason", "raw"}


def test_a_namespace_of_another_process_is_no_error(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQL catalog raises its database's error. If the namespace does not exist, the lake raises it too."""
    real = lake.catalog.create_namespace_if_not_exists

    def create_and_fail(namespace: str) -> None:
        real(namespace)
        raise RuntimeError("UNIQUE constraint failed")

    monkeypatch.setattr(lake.catalog, "create_namespace_if_not_exists", create_and_fail)
    assert lake.writable_trades().current_snapshot() is None
    lake.catalog.drop_table(TRADES_SPEC.identifier)
    lake.catalog.drop_namespace(NAMESPACE)
    monkeypatch.setattr(lake.catalog, "create_namespace_if_not_exists", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lake.writable_trades()


def test_the_contract_is_that_of_the_design() -> None:
    """Columns in order, types and required columns are fixed for other tools."""
    assert [(f.name, str(f.field_type), f.required) for f in TRADES_SPEC.schema.fields] == [
        ("exchange", "string", True),
        ("symbol", "string", True),
        ("trade_id", "string", True),
        ("timestamp", "timestamptz", True),
        ("price", "decimal(18, 8)", True),
        ("quantity", "decimal(19, 8)", True),
        ("ingested_at", "timestamptz", True),
    ]
    assert [(f.name, str(f.field_type), f.required) for f in CANDLE_SPECS["1m"].schema.fields] == [
        ("symbol", "string", True),
        ("exchange", "string", True),
        ("window_start", "timestamptz", True),
        ("window_end", "timestamptz", True),
        ("window_date", "date", True),
        ("open_price", "decimal(18, 8)", True),
        ("high_price", "decimal(18, 8)", True),
        ("low_price", "decimal(18, 8)", True),
        ("close_price", "decimal(18, 8)", True),
        ("volume", "decimal(29, 8)", True),
        ("trade_count", "long", True),
        ("vwap", "decimal(18, 8)", True),
        ("created_at", "timestamptz", True),
        ("updated_at", "timestamptz", True),
    ]
    assert {*KEY_COLUMNS, *VALUE_COLUMNS, *AUDIT_COLUMNS} == set(CANDLE_TYPES)


def test_a_table_with_other_columns_is_an_error_that_names_the_difference(lake: Lake) -> None:
    """The error lists missing, unknown and mistyped columns, and the partitioning."""
    minute = find_timeframe("1m")
    spec = CANDLE_SPECS["1m"]
    fields = [
        replace_type(f, DoubleType()) if f.name == "vwap" else f
        for f in spec.schema.fields
        if f.name != "volume"
    ]
    lake.writable_trades()  # creates the namespace
    lake.catalog.create_table(
        spec.identifier, Schema(*fields, NestedField(99, "colour", StringType())), properties=spec.properties
    )
    with pytest.raises(TableSpecError) as error:
        lake.candles(minute)
    for difference in (
        "column volume is missing",
        "column colour is unknown",
        "column vwap is double required, not decimal(18, 8) required",
        "partitioned by nothing, not by day(window_start)",
    ):
        assert difference in str(error.value)


def replace_type(field: NestedField, column_type: DoubleType) -> NestedField:
    return NestedField(field.field_id, field.name, column_type, required=field.required)


def test_a_table_on_which_pyiceberg_would_retry_by_itself_is_refused(lake: Lake) -> None:
    """PyIceberg's retry would commit an older result over a newer one."""
    table_history.set_properties(lake.writable_trades(), {"commit.retry.num-retries": "4"})
    with pytest.raises(TableSpecError, match=r"commit\.retry\.num-retries is 4, not 0"):
        lake.trades()


def test_pyicebergs_own_configuration_has_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment variables replace the embedded catalog."""
    settings = lakes.lake_settings(tmp_path)
    assert catalog_properties(settings)["uri"].startswith(f"sqlite:///{tmp_path / 'catalog.db'}?timeout=")
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("PYICEBERG_CATALOG__K2__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__K2__URI", uri)
    monkeypatch.setenv("PYICEBERG_CATALOG__K2__WAREHOUSE", (tmp_path / "other").as_uri())
    assert catalog_properties(replace(settings, home=tmp_path / "home"))["uri"] == uri
    assert Lake.open(settings).writable_trades().location().startswith((tmp_path / "other").as_uri())
    assert not (tmp_path / "catalog.db").exists()

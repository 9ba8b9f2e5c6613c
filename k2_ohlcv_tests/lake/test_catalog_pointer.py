"""The catalog's pointers: a table that another process wrote meanwhile is not changed."""

import pytest

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.catalog_pointer import move_pointer, read_pointers, register_table, sql_catalog
from k2_ohlcv.lake.schemas import TRADES_TABLE
from k2_ohlcv_tests.support import lakes
from k2_ohlcv_tests.support.daily_candles import trades_of_days


def test_a_pointer_moves_only_from_the_file_that_was_read(lake: Lake) -> None:
    """The earlier file is recorded, as a commit does it."""
    catalog = sql_catalog(lake.catalog)
    first = lakes.add_trades(lake, trades_of_days(1)).metadata_location
    second = lakes.add_trades(lake, trades_of_days(2)[3:]).metadata_location
    with pytest.raises(CommitConflictError, match="another process wrote gold_crypto_trades"):
        move_pointer(catalog, TRADES_TABLE, first, first)
    assert read_pointers(catalog) == {TRADES_TABLE: second}
    move_pointer(catalog, TRADES_TABLE, second, first)
    assert read_pointers(catalog) == {TRADES_TABLE: first}


def test_a_table_that_exists_is_not_registered_again(lake: Lake) -> None:
    path = lakes.add_trades(lake, trades_of_days(1)).metadata_location
    with pytest.raises(CommitConflictError, match="another process wrote gold_crypto_trades"):
        register_table(sql_catalog(lake.catalog), TRADES_TABLE, path)

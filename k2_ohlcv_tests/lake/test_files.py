"""What tables know of their own time, and what is kept of manifests that were read."""

from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.metadata.files import table_grain, time_column_name
from k2_ohlcv.lake.metadata.manifests import new_cache
from k2_ohlcv.lake.schemas import TABLE_SPECS
from k2_ohlcv.lake.time_column import TimeUnit


def test_every_table_knows_its_time_column_and_grain(lake: Lake) -> None:
    """As it is partitioned, be it there or not."""
    assert (time_column_name(lake.trades()), table_grain(lake.trades())) == ("timestamp", Grain.DAY)
    assert (time_column_name(lake.rejected()), table_grain(lake.rejected())) == ("rejected_at", Grain.DAY)
    for each in TIMEFRAMES:
        for table in (lake.candles(each), lake.writable_candles(each)):
            assert (time_column_name(table), table_grain(table)) == ("window_start", each.grain)
    for contract in TABLE_SPECS.values():
        source = contract.schema.find_field(contract.time_column).field_id
        assert [field.source_id for field in contract.partition_spec.fields] == [source]


def test_an_external_table_is_read_as_trades_whatever_its_name(lake: Lake) -> None:
    monthly = next(each for each in TIMEFRAMES if each.grain is Grain.MONTH)
    table = ExternalTrades(lake.writable_candles(monthly), {}, TimeUnit.ZONED)
    assert (time_column_name(table), table_grain(table)) == ("timestamp", Grain.DAY)


def test_the_cache_is_bounded_by_entries_and_keeps_one_large_manifest() -> None:
    """Many small ones go, those read longest ago first; one beyond the bound is kept alone."""
    cache = new_cache(10)
    for name in "abc":
        cache[name] = (1, 2, 3)
    assert list(cache) == ["b", "c"]
    cache["large"] = tuple(range(100))
    assert list(cache) == ["large"]
    for number in range(100):
        cache[number] = ()
    assert len(cache) == 10

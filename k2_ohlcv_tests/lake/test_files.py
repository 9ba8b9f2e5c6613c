"""Time column and partition grain of each table, and the cache of manifests."""

from k2_ohlcv.domain.timeframe import TIMEFRAMES, Grain
from k2_ohlcv.lake.catalog import Lake
from k2_ohlcv.lake.external_trades import ExternalTrades
from k2_ohlcv.lake.metadata.files import table_grain, time_column_name
from k2_ohlcv.lake.metadata.manifests import new_cache
from k2_ohlcv.lake.schemas import TABLE_SPECS
from k2_ohlcv.lake.time_column import TimeUnit


def test_every_table_knows_its_time_column_and_grain(lake: Lake) -> None:
    """Both follow from the spec, whether the table exists or not."""
    assert (time_column_name(lake.trades()), table_grain(lake.trades())) == ("timestamp", Grain.DAY)
    assert (time_column_name(lake.rejected()), table_grain(lake.rejected())) == ("rejected_at", Grain.DAY)
    for timeframe in TIMEFRAMES:
        for table in (lake.candles(timeframe), lake.writable_candles(timeframe)):
            assert (time_column_name(table), table_grain(table)) == ("window_start", timeframe.grain)
    for spec in TABLE_SPECS.values():
        source = spec.schema.find_field(spec.time_column).field_id
        assert [field.source_id for field in spec.partition_spec.fields] == [source]


def test_an_external_table_is_read_as_trades_whatever_its_name(lake: Lake) -> None:
    """Its time column is `timestamp` and its grain a day."""
    monthly = next(timeframe for timeframe in TIMEFRAMES if timeframe.grain is Grain.MONTH)
    table = ExternalTrades(lake.writable_candles(monthly), {}, TimeUnit.ZONED)
    assert (time_column_name(table), table_grain(table)) == ("timestamp", Grain.DAY)


def test_the_cache_is_bounded_by_entries_and_keeps_one_large_manifest() -> None:
    """The least recently read manifests are removed first. One manifest beyond the bound is stored alone."""
    cache = new_cache(10)
    for name in "abc":
        cache[name] = (1, 2, 3)
    assert list(cache) == ["b", "c"]
    cache["large"] = tuple(range(100))
    assert list(cache) == ["large"]
    for number in range(100):
        cache[number] = ()
    assert len(cache) == 10

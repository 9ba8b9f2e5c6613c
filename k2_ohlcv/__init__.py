"""K2 OHLCV: a Dagster asset graph that turns crypto trades into exact candles in Apache Iceberg."""

"""K2 OHLCV: exact candles from crypto trades, in Apache Iceberg, as a Dagster asset graph."""

"""Fetches the jars that Spark needs for the lake at build time. No container downloads anything."""

from k2_ohlcv.engine.spark_catalog import ICEBERG_AWS, ICEBERG_RUNTIME, JDBC_DRIVERS
from k2_ohlcv.engine.spark_jars import fetch_spark_jars

fetch_spark_jars([ICEBERG_RUNTIME, ICEBERG_AWS, JDBC_DRIVERS["postgresql"]])

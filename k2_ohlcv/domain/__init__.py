"""Domain rules in the standard library alone: no Spark, no Iceberg, no Dagster, no data frames."""

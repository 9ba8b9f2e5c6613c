"""The rules, in plain Python: no Spark, no Iceberg, no Dagster."""

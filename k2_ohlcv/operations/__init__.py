"""What a user does, a file each: ingest, rebuild, refresh, validate, retention. Dagster is in `defs`."""

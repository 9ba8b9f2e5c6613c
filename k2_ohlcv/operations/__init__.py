"""One module per user action: ingest, rebuild, refresh, validate, retention. No Dagster here: see `defs`."""

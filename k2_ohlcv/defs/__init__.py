"""Dagster's concepts, one a file. `definitions` assembles them. The work itself is in `operations`."""

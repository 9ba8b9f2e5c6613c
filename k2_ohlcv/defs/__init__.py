"""Dagster, thin: one file per concept. `definitions` puts them together; what they do is elsewhere."""

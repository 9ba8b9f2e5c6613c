"""Temporary files of an ingestion until it commits: sorted trades and rejected rows."""

"""Reads Iceberg metadata: files, snapshots, lag. Nothing here writes."""

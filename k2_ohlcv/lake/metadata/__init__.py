"""Reads Iceberg metadata: files, snapshots, lag and id ranges. Nothing here commits to a table."""

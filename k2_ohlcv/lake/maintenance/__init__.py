"""Maintenance of tables: drops partitions, expires snapshots, compacts small files, removes orphan files."""

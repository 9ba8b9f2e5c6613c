"""Keeps tables small: drops partitions, expires snapshots, compacts and removes files."""

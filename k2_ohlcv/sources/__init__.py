"""Parses landing files into trades, one module per format. Tables and commits do not belong here."""

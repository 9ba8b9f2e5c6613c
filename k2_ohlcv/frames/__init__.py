"""Polars frames of candles, pure: types, comparison, invariants, checks. No tables, no engine."""

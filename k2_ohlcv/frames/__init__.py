"""Polars frames of candles: types, comparison, invariants, checks. All pure: no tables and no engine here."""

"""Benchmarks on generated trades, compared with DuckDB and Polars: `python -m bench --help`.

`trades` and `lake` create the data. `engines` do the work in separate processes (`worker`). `suites` define
the measurements, and `report` prints them. Goals are shown as met or missed. The only assertion is that all
engines compute equal candles.
"""

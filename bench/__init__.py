"""Benchmarks on generated trades, beside DuckDB and Polars doing the same: `python -m bench --help`.

`trades` and `lake` make the data, `engines` do the work in processes of their own (`worker`), `suites` say
what is measured, `report` prints it. Goals are shown as met or missed; nothing here is asserted but that all
contenders give equal candles.
"""

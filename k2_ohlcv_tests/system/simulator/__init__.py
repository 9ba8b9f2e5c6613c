"""A seeded simulator of a lake's life: one seed decides every step, clock jump, fault and interleaving.

It drives the library in this process: ingest, refresh, rebuild and retention beside other writers, on one
embedded engine. A model in plain Python says what each table must hold. `python -m
k2_ohlcv_tests.system.simulator --seed N --steps M` plays one life again.
"""

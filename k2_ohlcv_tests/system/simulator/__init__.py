"""A seeded simulator of a lake: one seed decides every step, clock jump, fault and interleaving.

The simulator runs ingest, refresh, rebuild and retention beside other writers, on one embedded engine. A
model in plain Python gives the expected content of each table. `python -m k2_ohlcv_tests.system.simulator
--seed N --steps M` repeats one life.
"""

"""Tests, in the same packages as the code that they test.

Helpers that several test files use are in `support`. Whole processes are tested in `system`.
"""

"""Helpers that several tests use. No test imports from another test."""

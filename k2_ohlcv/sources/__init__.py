"""Landing files to trades, one file per format. Knows nothing of tables or commits."""

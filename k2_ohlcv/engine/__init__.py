"""PySpark: the session, on Sail or on Spark Connect, and the one expression that makes candles."""

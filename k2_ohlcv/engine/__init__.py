"""Everything that uses PySpark: the session (Sail or Spark Connect), reading trades, and the rollup."""

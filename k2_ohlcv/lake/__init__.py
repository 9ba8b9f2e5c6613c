"""PyIceberg: the catalog, the tables and their contracts, what changed in trades, candle commits."""

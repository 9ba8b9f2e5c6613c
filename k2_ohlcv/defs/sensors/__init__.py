"""The sensors: new landing files, stale candle tables, commits of other writers to trades."""

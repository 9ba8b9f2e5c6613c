"""A day of trading in fast time: `python -m bench.soak --help`.

`generator` creates the trades. `run` appends them and refreshes the tables as the sensors would. `assertions`
checks the lake afterwards. A false required assertion gives exit code 1. Times are only shown.
"""

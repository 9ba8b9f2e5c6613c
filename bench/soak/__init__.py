"""A day of trading in fast time: `python -m bench.soak --help`.

`feed` makes the trades, `course` lets them in and refreshes as the sensors would, `facts` looks at what the
lake has become. What must hold ends it with exit code 1 where it does not; times are only shown.
"""

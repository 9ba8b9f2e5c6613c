"""How many rows may be in memory at once, from the memory that a run should stay within."""

#: The default of `K2_MEMORY_MB`, and the least useful value.
DEFAULT_MEMORY_MB, MIN_MEMORY_MB = 2_048, 768

#: Memory in MB of a process that holds no candles: libraries, engine and buffers of files.
_BASE_MB = 500
#: Bytes for each window of a commit: computed, stored, compared, sorted and encoded. Meanwhile the engine
#: computes as many windows for the next commit.
_BYTES_PER_WINDOW = 4_000


def max_windows(memory_mb: int) -> int:
    """The number of windows that one commit, or one part of a validation, should have at most."""
    return (memory_mb - _BASE_MB) * 1_000_000 // _BYTES_PER_WINDOW

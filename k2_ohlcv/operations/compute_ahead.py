"""Computes the windows of the next chunk while the caller commits those of the last one.

The engine computes in threads of its own, while a commit mostly encodes and writes files. Splitting a plan
into chunks is in `plan_chunks`.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.operations.plan_chunks import Chunks


def compute_ahead(
    chunks: Chunks, compute: Callable[[Sequence[Interval]], pa.Table | None]
) -> Generator[tuple[list[Interval], pa.Table | None]]:
    """Yield each chunk with its windows, and compute one chunk more in the background meanwhile.

    Close the iterator to end the background work. Closing waits for the chunk that is being computed.

    Args:
        chunks: the chunks. Each result adapts the size of the later ones.
        compute: computes the windows of a chunk, or returns None if the caller must do that.
    """
    with ThreadPoolExecutor(1, "compute-ahead") as pool:
        submitted = ((chunk, pool.submit(compute, chunk)) for chunk in chunks)
        following = next(submitted, None)
        while following:
            chunk, future = following
            windows = future.result()
            if windows is not None:
                chunks.add_result(pc.sum(windows["trade_count"]).as_py() or 0, windows.num_rows)
            following = next(submitted, None)
            yield chunk, windows

"""Computes the windows of the next chunk while the caller commits those of the last one.

The engine computes in threads of its own, while a commit mostly encodes and writes files. Splitting a plan
into chunks is in `plan_chunks`.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc

from k2_ohlcv.domain.intervals import Interval
from k2_ohlcv.operations.plan_chunks import Chunks

#: Computes the windows of a chunk, or returns None if the caller must do that.
Compute = Callable[[Sequence[Interval]], pa.Table | None]


@contextmanager
def compute_ahead(
    chunks: Chunks, compute: Compute
) -> Iterator[Iterator[tuple[list[Interval], pa.Table | None]]]:
    """Give each chunk with its windows, and compute one chunk more in the background meanwhile.

    An error in the body waits for the chunk that is being computed, so that a next attempt has the memory. An
    interruption does not wait: a server that hangs must not keep the process.

    Args:
        chunks: the chunks. Each result adapts the size of the later ones.
        compute: computes the windows of a chunk.
    """
    started: list[Future[pa.Table | None]] = []

    def start(chunk: list[Interval]) -> tuple[list[Interval], Future[pa.Table | None]]:
        started[:] = [_run_in_background(compute, chunk)]
        return chunk, started[0]

    def iterate() -> Iterator[tuple[list[Interval], pa.Table | None]]:
        pending = map(start, chunks)
        following = next(pending, None)
        while following:
            chunk, future = following
            windows = future.result()
            if windows is not None:
                chunks.add_result(pc.sum(windows["trade_count"]).as_py() or 0, windows.num_rows)
            following = next(pending, None)
            yield chunk, windows

    try:
        yield iterate()
    except Exception:
        wait(started)
        raise


def _run_in_background(compute: Compute, chunk: Sequence[Interval]) -> Future[pa.Table | None]:
    """Compute in a daemon thread. The end of the process would wait for the threads of a pool."""
    future: Future[pa.Table | None] = Future()

    def work() -> None:
        try:
            future.set_result(compute(chunk))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="compute-ahead", daemon=True).start()
    return future

"""A landing file as batches of trades: opens it, recognises it, reads it, whatever it is.

This is the door of the room: callers need nothing else of it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TypeVar

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.sources import kraken, lines, parquet
from k2_ohlcv.sources.batch import Batch, judge
from k2_ohlcv.sources.container import PARQUET, opened, sniff
from k2_ohlcv.sources.layout import Layout
from k2_ohlcv.sources.market import Market, resolve
from k2_ohlcv.sources.recognise import check_format, recognise

# Arrow lets go of the interpreter while it parses, so two threads are twice as fast; each block in flight
# costs some 100 MB, so there are few.
_THREADS = 2
_T = TypeVar("_T")


def read(
    path: Path,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    format: str = "auto",  # noqa: A002 - as the option of the command line is called
    landing: Path | None = None,
    now: datetime | None = None,
) -> Iterator[Batch]:
    """The trades of a file, and its rows that are none, in bounded batches in the order of its lines.

    Args:
        path: a CSV file, plain or in gzip or zip, or a Parquet file; told apart by content.
        exchange: the exchange, before any column or path.
        symbol: the symbol, before any column or path.
        format: `auto`, or one of `recognise.FORMATS`.
        landing: the landing folder, for paths `<EXCHANGE>/<SYMBOL>/…` in it.
        now: the moment that a trade may not be a day ahead of, by default the present.

    Raises:
        BadFileError: the file cannot be read as a whole; batches may have come before that shows.
        UsageError: the format is unknown, or nothing says what market the file is of.
    """
    check_format(format)
    now = now or datetime.now(UTC)
    options = Market(exchange, symbol)
    if sniff(path) == PARQUET:
        if format not in ("auto", "table"):
            raise BadFileError(f"{path}: a Parquet file is not of the format {format}: it is a plain table")
        layout = parquet.layout_of(path)
        market = resolve(path, options, layout.roles, landing, Market(None, None))
        yield from _side_by_side(lambda rows: judge(rows, market, now), parquet.read(path, layout))
        return
    with opened(path) as stream:
        pieces = lines.blocks(stream, path)
        first = next(pieces, None)
        if first is None:
            raise BadFileError(f"{path}: the file holds no rows: fetch it again")
        layout, first = recognise(first, path, format)
        known = kraken.known(path, said=format == "kraken") if layout is kraken.LAYOUT else Market(None, None)
        market = resolve(path, options, layout.roles, landing, known)
        empty = True
        for batch in _side_by_side(_reader(layout, market, now), chain([first], pieces)):
            empty = empty and not batch.trades.num_rows and not batch.rejected.num_rows
            yield batch
        if empty:
            raise BadFileError(f"{path}: the file holds a header and no rows: fetch it again")


def _reader(layout: Layout, market: Market, now: datetime) -> Callable[[lines.Block], Batch]:
    def work(block: lines.Block) -> Batch:
        return replace(judge(lines.parse(block, layout), market, now), daily_ids=layout.daily_ids)

    return work


def _side_by_side(work: Callable[[_T], Batch], pieces: Iterable[_T]) -> Iterator[Batch]:
    """The batches in order, a few of them made ahead on other threads."""
    flying: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for piece in pieces:
            flying.append(pool.submit(work, piece))
            if len(flying) > _THREADS:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

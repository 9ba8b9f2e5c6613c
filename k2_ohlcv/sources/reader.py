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

from k2_ohlcv.domain.errors import BadFileError, K2Error
from k2_ohlcv.domain.printable import is_utf8, make_printable, make_printable_path
from k2_ohlcv.sources import csv_blocks, parquet
from k2_ohlcv.sources.compression import detect_kind, is_machine_error, open_decompressed
from k2_ohlcv.sources.detect import check_format, detect_format
from k2_ohlcv.sources.file_kinds import PARQUET, TEXT
from k2_ohlcv.sources.formats import kraken
from k2_ohlcv.sources.formats.layout import Layout
from k2_ohlcv.sources.line_blocks import LineBlock, cut_blocks
from k2_ohlcv.sources.market import Market, resolve_market
from k2_ohlcv.sources.rows import UNTERMINATED_REASON, ParsedBatch, parse_rows

# Arrow lets go of the interpreter while it parses, so two threads are twice as fast; each block in flight
# costs some 100 MB, so there are few.
_MAX_THREADS = 2
_T = TypeVar("_T")


def read_file(
    path: Path,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    format: str = "auto",  # noqa: A002 - as the option of the command line is called
    landing: Path | None = None,
    now: datetime | None = None,
) -> Iterator[ParsedBatch]:
    """The trades of a file, and its rows that are none, in bounded batches in the order of its lines.

    Args:
        path: a CSV file, plain or in gzip or zip, or a Parquet file; told apart by content.
        exchange: the exchange, before any column or path.
        symbol: the symbol, before any column or path.
        format: `auto`, or one of `detect_format.FORMATS`.
        landing: the landing folder, for paths `<EXCHANGE>/<SYMBOL>/…` in it.
        now: the moment that a trade may not be a day ahead of, by default the present.

    Raises:
        BadFileError: the file cannot be read as a whole; batches may have come before that shows.
        UsageError: the format is unknown, or nothing says what market the file is of.
        OSError: this machine has no memory, space or open files left: not the file's failure.
    """
    check_format(format)
    if not is_utf8(path):
        raise BadFileError(f"{make_printable_path(path)}: the file's name is not UTF-8: rename it")
    try:
        yield from _read_batches(path, Market(exchange, symbol), format, landing, now or datetime.now(UTC))
    except K2Error:
        raise
    except Exception as error:
        # Whatever reading a file raises is that file's failure, and no reason to try again. Nothing else
        # happens in here: what becomes of the batches is outside.
        if is_machine_error(error):
            raise
        raise BadFileError(
            f"{make_printable_path(path)}: cannot be read ({type(error).__name__}: "
            f"{make_printable(error)}): fetch it "
            "again, or write it anew"
        ) from error


def _read_batches(
    path: Path, options: Market, name: str, landing: Path | None, now: datetime
) -> Iterator[ParsedBatch]:
    kind = detect_kind(path)
    if kind == PARQUET:
        if name not in ("auto", "table"):
            raise BadFileError(
                f"{make_printable_path(path)}: a Parquet file is not of the format {name}: it "
                "is a plain table"
            )
        layout = parquet.parquet_layout(path)
        market = resolve_market(path, options, layout.roles, landing, Market(None, None))
        yield from _map_parallel(
            lambda rows: parse_rows(rows, market, now), parquet.read_parquet(path, layout)
        )
        return
    with open_decompressed(path) as stream:
        # The checksum of a wrapping tells that it is whole; plain text may end anywhere.
        pieces = cut_blocks(stream, path, is_complete=kind != TEXT)
        first = _first_piece(pieces, path)
        layout, first = detect_format(first, path, name)
        known = (
            kraken.market_from_filename(path, said=name == "kraken")
            if layout is kraken.LAYOUT
            else Market(None, None)
        )
        market = resolve_market(path, options, layout.roles, landing, known)
        empty = True
        for batch in _map_parallel(_build_parser(layout, market, now), chain([first], pieces)):
            empty = empty and not batch.trades.num_rows and not batch.rejected.num_rows
            yield batch
        if empty:
            raise BadFileError(
                f"{make_printable_path(path)}: the file holds a header and no rows: fetch it again"
            )


def _first_piece(pieces: Iterator[LineBlock], path: Path) -> LineBlock:
    first = next(pieces, None)
    if first is None:
        raise BadFileError(f"{make_printable_path(path)}: the file holds no rows: fetch it again")
    if first.error and first.error != UNTERMINATED_REASON:
        raise BadFileError(
            f"{make_printable_path(path)}: line 1 {first.error}: this is not a table of trades"
        )
    return first


def _build_parser(layout: Layout, market: Market, now: datetime) -> Callable[[LineBlock], ParsedBatch]:
    def work(block: LineBlock) -> ParsedBatch:
        return replace(
            parse_rows(csv_blocks.parse_block(block, layout), market, now), daily_ids=layout.daily_ids
        )

    return work


def _map_parallel(work: Callable[[_T], ParsedBatch], pieces: Iterable[_T]) -> Iterator[ParsedBatch]:
    """The batches in order, a few of them made ahead on other threads."""
    flying: deque[Future[ParsedBatch]] = deque()
    pool = ThreadPoolExecutor(_MAX_THREADS)
    try:
        for piece in pieces:
            flying.append(pool.submit(work, piece))
            if len(flying) > _MAX_THREADS:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

"""Reads a landing file of any supported format as batches of trades.

This is the entry point of `sources`: callers need no other module to read a file.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from k2_ohlcv.domain.errors import BadFileError, K2Error
from k2_ohlcv.domain.printable import is_utf8, make_printable, make_printable_path
from k2_ohlcv.sources import csv_blocks, parquet
from k2_ohlcv.sources.compression import detect_kind, is_machine_error, open_decompressed
from k2_ohlcv.sources.detect import check_format, detect_format
from k2_ohlcv.sources.file_kinds import PARQUET, TEXT
from k2_ohlcv.sources.formats import binance, kraken
from k2_ohlcv.sources.formats.layout import Layout
from k2_ohlcv.sources.line_blocks import LineBlock, cut_blocks
from k2_ohlcv.sources.market import Market, market_from_folder, resolve_market
from k2_ohlcv.sources.rows import UNTERMINATED_REASON, ParsedBatch, parse_rows

# Arrow releases the interpreter lock while it parses, so two threads are twice as fast. Each parallel block
# takes about 100 MB, so the number of threads is small.
_MAX_THREADS = 2
#: The most rejected rows of a file. A file with more is no table of trades. Recording its rows takes long.
MAX_REJECTED_ROWS = 1_000_000
_T = TypeVar("_T")


def read_file(
    path: Path,
    *,
    exchange: str | None = None,
    symbol: str | None = None,
    format: str = "auto",  # noqa: A002 - the name of the command-line option
    landing: Path | None = None,
    folder: Path | None = None,
    now: datetime | None = None,
) -> Iterator[ParsedBatch]:
    """Read the trades and rejected rows of a file, in bounded batches in line order.

    Args:
        path: a CSV file (plain, gzip or zip) or a Parquet file. The content shows the kind.
        exchange: takes precedence over a column and over the path.
        symbol: takes precedence over a column and over the path.
        format: one of `detect.FORMATS`.
        landing: the landing folder, for paths `<EXCHANGE>/<SYMBOL>/…`.
        folder: the folder that is ingested, for paths `<EXCHANGE>/<SYMBOL>/file` in it; None for a file that
            the caller named itself.
        now: the current time by default. A trade more than a day later is rejected.

    Raises:
        BadFileError: the file cannot be read completely, or has more than `MAX_REJECTED_ROWS` rejected rows.
            Some batches may have been yielded before.
        UsageError: the format or the market is unknown.
        OSError: the machine has no memory, disk space or open files left.
    """
    check_format(format)
    if not is_utf8(path):
        raise BadFileError(f"{make_printable_path(path)}: the file's name is not UTF-8: rename it")
    with _convert_errors(path):
        market, places = Market(exchange, symbol), (landing, folder)
        batches = _read_batches(path, market, format, places, now or datetime.now(UTC))
        yield from _limit_rejected(batches, path)


@contextmanager
def _convert_errors(path: Path) -> Iterator[None]:
    """Raise any error of reading a file as `BadFileError`, except errors of the machine."""
    try:
        yield
    except K2Error:
        raise
    except Exception as error:
        # Only reading happens here. Any other error is therefore caused by the file, and a retry is useless.
        if is_machine_error(error):
            raise
        reason = f"{type(error).__name__}: {make_printable(error)}"
        raise BadFileError(
            f"{make_printable_path(path)}: cannot be read ({reason}): download or create it again"
        ) from error


def _read_batches(
    path: Path, options: Market, name: str, places: tuple[Path | None, Path | None], now: datetime
) -> Iterator[ParsedBatch]:
    kind, (landing, folder) = detect_kind(path), places
    if kind == PARQUET:
        if name not in ("auto", "table"):
            raise BadFileError(
                f"{make_printable_path(path)}: a Parquet file is not of the format {name}: "
                "it is a plain table"
            )
        layout = parquet.parquet_layout(path)
        known = market_from_folder(path, folder, Market(None, None))
        market = resolve_market(path, options, layout.roles, landing, known)
        yield from _map_parallel(
            lambda rows: parse_rows(rows, market, now), parquet.read_parquet(path, layout)
        )
        return
    with open_decompressed(path) as stream:
        # The checksum of a gzip or zip file proves that the text is complete. Plain text may be cut anywhere.
        blocks = cut_blocks(stream, path, is_complete=kind != TEXT)
        first = _first_block(blocks, path)
        layout, first = detect_format(first, path, name)
        known = market_from_folder(path, folder, _market_from_filename(path, layout, name))
        market = resolve_market(path, options, layout.roles, landing, known)
        is_empty = True
        for batch in _map_parallel(_build_parser(layout, market, now), chain([first], blocks)):
            is_empty = is_empty and not batch.trades.num_rows and not batch.rejected.num_rows
            yield batch
        if is_empty:
            raise BadFileError(
                f"{make_printable_path(path)}: the file has a header and no rows: download it again"
            )


def _limit_rejected(batches: Iterable[ParsedBatch], path: Path) -> Iterator[ParsedBatch]:
    """Pass batches on, until too many rows are rejected."""
    rejected = 0
    for batch in batches:
        rejected += batch.rejected.num_rows
        if rejected > MAX_REJECTED_ROWS:
            line, reason = (batch.rejected[name][-1].as_py() for name in ("line", "reason"))
            raise BadFileError(
                f"{make_printable_path(path)}: more than {MAX_REJECTED_ROWS:,} rows cannot be trades, for "
                f"example line {line:,} ({make_printable(reason)}). The whole file is refused: check its "
                "format, or download it again"
            )
        yield batch


def _market_from_filename(path: Path, layout: Layout, name: str) -> Market:
    """The market in the file name, as far as the format defines it."""
    if layout is kraken.LAYOUT:
        return kraken.market_from_filename(path, is_chosen=name == "kraken")
    return binance.market_from_filename(path, layout)


def _first_block(blocks: Iterator[LineBlock], path: Path) -> LineBlock:
    first = next(blocks, None)
    if first is None:
        raise BadFileError(f"{make_printable_path(path)}: the file has no rows: download it again")
    if first.error and first.error != UNTERMINATED_REASON:
        raise BadFileError(
            f"{make_printable_path(path)}: line 1 {first.error}: this is not a table of trades"
        )
    return first


def _build_parser(layout: Layout, market: Market, now: datetime) -> Callable[[LineBlock], ParsedBatch]:
    def parse(block: LineBlock) -> ParsedBatch:
        return replace(
            parse_rows(csv_blocks.parse_block(block, layout), market, now), daily_ids=layout.daily_ids
        )

    return parse


def _map_parallel(parse: Callable[[_T], ParsedBatch], blocks: Iterable[_T]) -> Iterator[ParsedBatch]:
    """Parse blocks on a few threads, and yield the batches in order. A single block needs no threads."""
    blocks = iter(blocks)
    head = list(islice(blocks, 2))
    if len(head) < 2:
        yield from map(parse, head)
        return
    blocks = chain(head, blocks)
    pending: deque[Future[ParsedBatch]] = deque()
    pool = ThreadPoolExecutor(_MAX_THREADS)
    try:
        for block in blocks:
            pending.append(pool.submit(parse, block))
            if len(pending) > _MAX_THREADS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

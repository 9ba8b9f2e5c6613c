"""Reads the rows of candidate files in bounded pieces, with their market as an index.

The choice of files is in `candidate_files`, the comparison with incoming rows in `dedupe`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue, And, BooleanExpression
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.intervals import MICROSECOND, Interval
from k2_ohlcv.lake.metadata.files import file_time_span, is_within

#: Maximum rows of a piece. Compaction makes files that are larger than a piece.
_PIECE_ROWS = 2_500_000
#: Files with at most this many rows are read whole, without a filter.
_MAX_UNFILTERED_ROWS = 50_000
_COLUMNS = ("exchange", "symbol", "trade_id", "timestamp", "price", "quantity")


def read_pieces(
    table: Table, tasks: Sequence[FileScanTask], row_filter: BooleanExpression
) -> Iterator[pa.Table]:
    """Read the rows of data files that pass a filter, in bounded pieces. Small files are not filtered.

    Small files are read together and whole, because a filter costs more than the rows that it removes. Each
    large file is read alone, filtered, by slices of time.
    """
    small: list[FileScanTask] = []
    for task in tasks:
        rows = task.file.record_count
        if rows <= min(_MAX_UNFILTERED_ROWS, _PIECE_ROWS):
            small.append(task)
            continue
        count = -(-rows // _PIECE_ROWS)
        span = file_time_span(table, task.file)
        step = (span.end - span.start) / count + MICROSECOND
        for i in range(count):
            time_slice = Interval(span.start + i * step, span.start + (i + 1) * step)
            in_slice = row_filter if count == 1 else And(row_filter, is_within("timestamp", [time_slice]))
            yield _read(table, in_slice, [task])
    batch_size = max(1, _PIECE_ROWS // _MAX_UNFILTERED_ROWS)
    for first in range(0, len(small), batch_size):
        yield _read(table, AlwaysTrue(), small[first : first + batch_size])


def _read(table: Table, row_filter: BooleanExpression, tasks: Sequence[FileScanTask]) -> pa.Table:
    return ArrowScan(table.metadata, table.io, table.schema().select(*_COLUMNS), row_filter).to_table(tasks)


def with_markets(stored: pa.Table, markets: Sequence[tuple[str, str]]) -> pa.Table:
    """The stored rows of these markets, with the index `market` and the row's own `position`."""
    exchanges = pc.cast(stored["exchange"], pa.string()).combine_chunks().dictionary_encode()
    symbols = pc.cast(stored["symbol"], pa.string()).combine_chunks().dictionary_encode()
    index = {market: i for i, market in enumerate(markets)}
    symbol_names = symbols.dictionary.to_pylist()
    pairs = [index.get((e, s), -1) for e in exchanges.dictionary.to_pylist() for s in symbol_names]
    codes = exchanges.indices.to_numpy().astype(np.int64) * len(symbol_names) + symbols.indices.to_numpy()
    indexes = np.array(pairs, np.int32)[codes] if len(codes) else np.empty(0, np.int32)
    stored = stored.drop_columns(["exchange", "symbol"]).append_column("market", pa.array(indexes))
    stored = stored.set_column(0, "trade_id", pc.cast(stored["trade_id"], pa.string()))
    if (indexes < 0).any():
        stored = stored.filter(pa.array(indexes >= 0))
    return stored.append_column("position", pa.array(np.arange(stored.num_rows)))

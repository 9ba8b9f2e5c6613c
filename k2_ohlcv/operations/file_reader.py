"""Collects the rows of landing files in buffers on disk, before any table changes.

Parsing files is in `sources.reader`, committing the rows in `ingest` and `replace_trades`.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from k2_ohlcv.domain.intervals import Interval, coalesce, to_micros
from k2_ohlcv.sources.rows import ParsedBatch
from k2_ohlcv.sources.staging.rejected_buffer import RejectedBuffer
from k2_ohlcv.sources.staging.sort_buffer import RUN_SCHEMA, SortBuffer, to_micros_array


class FileReader:
    """Collects the rows of files in a sort buffer and a rejected buffer, with counts of the rows.

    Attributes:
        sort_buffer: the trades, on disk.
        rejected_buffer: the rejected rows, on disk.
        markets: a number for each (exchange, symbol).
        daily_files: numbers of the files whose trade ids are unique within a day only.
        trades: the number of trades.
        rejected: the number of rejected rows.
        first: the time of the first trade, in microseconds since the epoch; None without trades.
        last: the time of the last trade.
        unterminated: the number of the last line of each file that does not end with a line break.
    """

    def __init__(
        self, sort_buffer: SortBuffer, rejected_buffer: RejectedBuffer, days: Sequence[Interval] | None
    ) -> None:
        """Start without rows.

        Args:
            sort_buffer: an empty buffer for trades.
            rejected_buffer: an empty buffer for rejected rows.
            days: only rows in these intervals are collected; None collects all rows.
        """
        self.sort_buffer = sort_buffer
        self.rejected_buffer = rejected_buffer
        self.markets: dict[tuple[str, str], int] = {}
        self.daily_files: set[int] = set()
        self.trades = 0
        self.rejected = 0
        self.first: int | None = None
        self.last: int | None = None
        self.unterminated: dict[str, int] = {}
        self._days = None if days is None else coalesce(days)

    @property
    def read(self) -> int:
        """The number of rows collected so far."""
        return self.trades + self.rejected

    def add_batch(self, batch: ParsedBatch, file: int, source: str) -> None:
        """Add the rows of a batch that lie in the chosen days.

        Args:
            batch: parsed rows of one file.
            file: the number of the file.
            source: the path of the file, for `rejected_trades`.
        """
        rows, rejected = self._rows_of_days(batch.trades), self._rows_of_days(batch.rejected)
        self.rejected += rejected.num_rows
        self.rejected_buffer.add(rejected, source)
        if batch.unterminated_line is not None:
            self.unterminated[source] = batch.unterminated_line
        if not rows.num_rows:
            return
        self.trades += rows.num_rows
        moments = to_micros_array(rows)
        self.first = min(int(moments.min()), self.first if self.first is not None else 2**63)
        self.last = max(int(moments.max()), self.last or 0)
        if batch.daily_ids:
            self.daily_files.add(file)
        files = pa.array(np.full(rows.num_rows, file, np.int32))
        columns = [rows[name] for name in RUN_SCHEMA.names[2:]]
        self.sort_buffer.add(
            pa.Table.from_arrays([self._market_numbers(rows), files, *columns], schema=RUN_SCHEMA)
        )

    def _rows_of_days(self, rows: pa.Table) -> pa.Table:
        """Filter rows by the chosen days."""
        if self._days is None or not rows.num_rows:
            return rows
        moments = rows["timestamp"].cast(pa.int64()).fill_null(-1).to_numpy()
        inside = moments == -1  # keep rows without a valid time, so that every call reports these rows
        for day in self._days:
            inside |= (moments >= to_micros(day.start)) & (moments < to_micros(day.end))
        return rows if inside.all() else rows.filter(pa.array(inside))

    def _market_numbers(self, rows: pa.Table) -> pa.Array:
        """Return the number of each row's market. A new market gets the next number."""
        exchanges, symbols = rows["exchange"].combine_chunks(), rows["symbol"].combine_chunks()
        names = symbols.dictionary.to_pylist()
        width = len(names)
        codes = exchanges.indices.to_numpy().astype(np.int64) * width + symbols.indices.to_numpy()
        pairs, inverse = np.unique(codes, return_inverse=True)
        numbers = [
            self.markets.setdefault(
                (exchanges.dictionary[p // width].as_py(), names[p % width]), len(self.markets)
            )
            for p in pairs.tolist()
        ]
        return pa.array(np.array(numbers, np.int32)[inverse])

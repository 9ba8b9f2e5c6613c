"""The trades of one file and one market, on disk. `replacement_plan` compares them with stored trades."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.lake.dedupe import Mask, TradeBatch, has_equal_values
from k2_ohlcv.operations.delete_trades import Market
from k2_ohlcv.operations.file_reader import FileReader
from k2_ohlcv.sources.staging.rejected_buffer import CONFLICT, RejectedBuffer, build_rejected_rows
from k2_ohlcv.sources.staging.sort_buffer import SortBuffer
from k2_ohlcv.sources.staging.trade_ids import BatchWithIds, assign_ids

_MAX_SAMPLE_ROWS = 3


@dataclass(frozen=True)
class FileTrades:
    """The trades of one file and one market, on disk.

    Attributes:
        sort_buffer: the trades.
        market: the market of the trades.
        first: the time of the first trade, in microseconds since the epoch.
        last: the time of the last trade.
        ranges: contiguous half-open time ranges that cover the span. The rows of one range fit in memory.
        rejected: the rejected rows, in the columns of `rejected_trades`.
        rejected_count: the number of rejected rows.
        is_daily: whether trade ids are unique within a day only.
    """

    sort_buffer: SortBuffer
    market: Market
    first: int
    last: int
    ranges: tuple[tuple[int, int], ...]
    rejected: RejectedBuffer
    rejected_count: int
    is_daily: bool = False

    @classmethod
    def read_file(cls, path: Path, reader: FileReader, batch_rows: int) -> "FileTrades":
        """Take the trades of a file from its reader, after the reader has read the file to its end.

        Raises:
            BadFileError: the file has no trades, or an id occurs at several times.
            UsageError: the file has several markets.
        """
        if reader.first is None or reader.last is None:
            raise BadFileError(f"{path}: no row of the file is a trade, so it has no span to replace")
        markets = list(reader.markets)
        if len(markets) != 1:
            names = ", ".join("/".join(market) for market in markets[:_MAX_SAMPLE_ROWS])
            names += ", ..." if len(markets) > _MAX_SAMPLE_ROWS else ""
            raise UsageError(
                f"{path} has trades of {len(markets)} markets ({names}). A replacement takes one market: "
                "give one file per market, or --exchange and --symbol"
            )
        starts = [span.start for span in reader.sort_buffer.split_ranges(batch_rows)]
        edges = [reader.first, *starts[1:], reader.last + 1]
        file_trades = cls(
            reader.sort_buffer,
            markets[0],
            reader.first,
            reader.last,
            tuple(pairwise(edges)),
            reader.rejected_buffer,
            reader.rejected,
            bool(reader.daily_files),
        )
        file_trades._reject_scattered(path)
        conflicts = file_trades._reject_conflicts(path)
        return replace(file_trades, rejected_count=file_trades.rejected_count + conflicts)

    def _reject_conflicts(self, path: Path) -> int:
        """Add rows to the rejected rows if an earlier row has the same id and other values. Count them."""
        count = 0
        for start, end in self.ranges:
            batch = self.batch_with_ids(start, end)
            is_conflict = ~self.select_rows(batch) & ~_is_repeated(batch)
            self.rejected.add_rows(
                build_rejected_rows(
                    batch.rows, is_conflict, reason=CONFLICT, markets=[self.market], sources=[str(path)]
                )
            )
            count += int(is_conflict.sum())
        return count

    def _hash_ids(self, start: int, end: int) -> pl.Series:
        """Hash each id, or each day and id. The hashes of the whole file fit in memory."""
        incoming = self.trades(start, end)
        texts = pl.Series(incoming.rows["trade_id"])
        if self.is_daily:
            texts = (pl.Series(incoming.rows["timestamp"]).dt.date().cast(pl.String) + " ") + texts
        return texts.hash().unique()

    def batch_with_ids(self, start: int, end: int) -> BatchWithIds:
        """Read the rows of a time range, with ids."""
        return assign_ids(self.sort_buffer.read(start, end), (0,) if self.is_daily else ())

    @staticmethod
    def select_rows(batch: BatchWithIds) -> Mask:
        """Return a mask of the first row of each id."""
        mask: Mask = batch.first_duplicate == np.arange(len(batch.first_duplicate))
        return mask

    def trades(self, start: int, end: int) -> TradeBatch:
        """Read the trades of a time range, one row per id."""
        batch = self.batch_with_ids(start, end)
        is_first = self.select_rows(batch)
        rows = batch.rows if is_first.all() else batch.rows.filter(pa.array(is_first))
        daily = None if batch.has_daily_ids is None else batch.has_daily_ids[is_first]
        return TradeBatch(rows, [self.market], batch.generated_id[is_first], np.arange(rows.num_rows), daily)

    def _reject_scattered(self, path: Path) -> None:
        """Raise an error if an id occurs in several time ranges. Nothing says which row is right."""
        if len(self.ranges) == 1:
            return
        hashes = pl.concat([self._hash_ids(start, end) for start, end in self.ranges])
        if repeated := len(hashes) - hashes.n_unique():
            raise BadFileError(
                f"{path}: {repeated:,} ids occur again at other times. Nothing was changed. "
                "Remove the wrong rows from the file"
            )


def _is_repeated(batch: BatchWithIds) -> Mask:
    """Return a mask of the rows that are equal to the first row of their id."""
    equal: Mask = has_equal_values(
        batch.rows, np.arange(len(batch.first_duplicate)), batch.rows, batch.first_duplicate
    )
    return equal

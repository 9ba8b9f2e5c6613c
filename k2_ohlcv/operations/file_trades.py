"""The trades of one file and market, read to the end and kept on disk, to be compared with stored ones."""

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
    """The trades of the file, on disk.

    Attributes:
        sort_buffer: where they are.
        market: whose they are.
        first: the time of the first, in microseconds since the epoch.
        last: the time of the last.
        ranges: contiguous half-open ranges of time that make up the span, each of bounded rows.
        rejected: the rows that are left out, as `rejected_trades` has them.
        rejected_count: how many those are.
        is_daily: whether ids are unique in their day only.
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
    def read_file(cls, path: Path, intake: FileReader, batch_rows: int) -> "FileTrades":
        """What a file holds, once it is read to its end."""
        if intake.first is None or intake.last is None:
            raise BadFileError(f"{path}: no row of the file is a trade, so it has no span to replace")
        markets = list(intake.markets)
        if len(markets) != 1:
            named = ", ".join("/".join(market) for market in markets[:_MAX_SAMPLE_ROWS])
            named += ", ..." if len(markets) > _MAX_SAMPLE_ROWS else ""
            raise UsageError(
                f"{path} has trades of {len(markets)} markets ({named}). "
                "One market is replaced at a time: give a file for each, or --exchange and --symbol"
            )
        starts = [span.start for span in intake.sort_buffer.split_ranges(batch_rows)]
        edges = [intake.first, *starts[1:], intake.last + 1]
        given = cls(
            intake.sort_buffer,
            markets[0],
            intake.first,
            intake.last,
            tuple(pairwise(edges)),
            intake.rejected_buffer,
            intake.rejected,
            bool(intake.daily_files),
        )
        given._reject_scattered(path)
        return replace(given, rejected_count=given.rejected_count + given._reject_conflicts(path))

    def _reject_conflicts(self, path: Path) -> int:
        """Rows that have other values than the first one of their id: put in with the rejected ones."""
        count = 0
        for start, end in self.ranges:
            batch = self.batch_with_ids(start, end)
            other = ~self.select_rows(batch) & ~_repeated_rows(batch)
            self.rejected.add_rows(
                build_rejected_rows(
                    batch.rows, other, reason=CONFLICT, markets=[self.market], sources=[str(path)]
                )
            )
            count += int(other.sum())
        return count

    def _hashes(self, start: int, end: int) -> pl.Series:
        """Of each id, or of each day and id: small enough to hold those of the whole file."""
        incoming = self.trades(start, end)
        texts = pl.Series(incoming.rows["trade_id"])
        if self.is_daily:
            texts = (pl.Series(incoming.rows["timestamp"]).dt.date().cast(pl.String) + " ") + texts
        return texts.hash().unique()

    def batch_with_ids(self, start: int, end: int) -> BatchWithIds:
        """The rows of a range, with ids."""
        return assign_ids(self.sort_buffer.read(start, end), (0,) if self.is_daily else ())

    @staticmethod
    def select_rows(batch: BatchWithIds) -> Mask:
        """The first row of each id."""
        mask: Mask = batch.first_duplicate == np.arange(len(batch.first_duplicate))
        return mask

    def trades(self, start: int, end: int) -> TradeBatch:
        """The trades of a range, each id once."""
        batch = self.batch_with_ids(start, end)
        chosen = self.select_rows(batch)
        rows = batch.rows if chosen.all() else batch.rows.filter(pa.array(chosen))
        daily = None if batch.has_daily_ids is None else batch.has_daily_ids[chosen]
        return TradeBatch(rows, [self.market], batch.generated_id[chosen], np.arange(rows.num_rows), daily)

    def _reject_scattered(self, path: Path) -> None:
        """Ids that come again in another range of time have other values there: which is right?"""
        if len(self.ranges) == 1:
            return
        hashes = [self._hashes(*one) for one in self.ranges]
        whole = pl.concat(hashes)
        if repeated := len(whole) - whole.n_unique():
            raise BadFileError(
                f"{path}: {repeated:,} ids come again at other times; which of the rows is right cannot be "
                "told, and nothing was changed. Take the wrong ones out of the file"
            )


def _repeated_rows(batch: BatchWithIds) -> Mask:
    """Rows that are equal to the first one of their id."""
    equal: Mask = has_equal_values(
        batch.rows, np.arange(len(batch.first_duplicate)), batch.rows, batch.first_duplicate
    )
    return equal

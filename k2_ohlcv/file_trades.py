"""The trades of one file and market, read to the end and kept on disk, to be compared with stored ones."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from k2_ohlcv.corrections import Market
from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.ingest import Intake
from k2_ohlcv.lake.dedupe import Incoming, Mask, equal_values
from k2_ohlcv.sources.identity import Identified, identify
from k2_ohlcv.sources.refusals import CONFLICT, Refusals, refused_rows
from k2_ohlcv.sources.spool import Spool

_SHOWN = 3


@dataclass(frozen=True)
class FileTrades:
    """The trades of the file, on disk.

    Attributes:
        spool: where they are.
        market: whose they are.
        first: the time of the first, in microseconds since the epoch.
        last: the time of the last.
        ranges: contiguous half-open ranges of time that make up the span, each of bounded rows.
        refusals: the rows that are left out, as `rejected_trades` has them.
        refused: how many those are.
        is_daily: whether ids are unique in their day only.
    """

    spool: Spool
    market: Market
    first: int
    last: int
    ranges: tuple[tuple[int, int], ...]
    refusals: Refusals
    refused: int
    is_daily: bool = False

    @classmethod
    def of(cls, path: Path, intake: Intake, batch_rows: int) -> "FileTrades":
        """What a file holds, once it is read to its end."""
        if intake.first is None or intake.last is None:
            raise BadFileError(f"{path}: no row of the file is a trade, so it has no span to replace")
        markets = list(intake.markets)
        if len(markets) != 1:
            named = ", ".join("/".join(market) for market in markets[:_SHOWN])
            named += ", ..." if len(markets) > _SHOWN else ""
            raise UsageError(
                f"{path} has trades of {len(markets)} markets ({named}). "
                "One market is replaced at a time: give a file for each, or --exchange and --symbol"
            )
        starts = [span.start for span in intake.spool.spans(batch_rows)]
        edges = [intake.first, *starts[1:], intake.last + 1]
        given = cls(
            intake.spool,
            markets[0],
            intake.first,
            intake.last,
            tuple(pairwise(edges)),
            intake.refusals,
            intake.rejected,
            bool(intake.daily_files),
        )
        given._refuse_scattered(path)
        return replace(given, refused=given.refused + given._refuse_conflicts(path))

    def _refuse_conflicts(self, path: Path) -> int:
        """Rows that have other values than the first one of their id: put in with the rejected ones."""
        count = 0
        for start, end in self.ranges:
            batch = self.identified(start, end)
            other = ~self.chosen(batch) & ~_repeats(batch)
            self.refusals.add_named(
                refused_rows(batch.rows, other, reason=CONFLICT, markets=[self.market], sources=[str(path)])
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

    def identified(self, start: int, end: int) -> Identified:
        """The rows of a range, with ids."""
        return identify(self.spool.read(start, end), (0,) if self.is_daily else ())

    @staticmethod
    def chosen(batch: Identified) -> Mask:
        """The first row of each id."""
        mask: Mask = batch.first == np.arange(len(batch.first))
        return mask

    def trades(self, start: int, end: int) -> Incoming:
        """The trades of a range, each id once."""
        batch = self.identified(start, end)
        chosen = self.chosen(batch)
        rows = batch.rows if chosen.all() else batch.rows.filter(pa.array(chosen))
        daily = None if batch.daily is None else batch.daily[chosen]
        return Incoming(rows, [self.market], batch.made[chosen], np.arange(rows.num_rows), daily)

    def _refuse_scattered(self, path: Path) -> None:
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


def _repeats(batch: Identified) -> Mask:
    """Rows that are equal to the first one of their id."""
    equal: Mask = equal_values(batch.rows, np.arange(len(batch.first)), batch.rows, batch.first)
    return equal

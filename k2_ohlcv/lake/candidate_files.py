"""Finds the candidate files: data files that may have an incoming trade id, or the time of a generated id.

A file is a candidate if an incoming id lies in the file's id range of the same market. Ids grow over time on
nearly every exchange, so an append usually opens no file. Reading the files is in `candidate_rows`.
"""

from collections.abc import Sequence, Set

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.table import FileScanTask, Table

from k2_ohlcv.domain.intervals import to_micros
from k2_ohlcv.lake.delete_files import reject_equality_deletes
from k2_ohlcv.lake.metadata.files import LiveFile, live_files
from k2_ohlcv.lake.metadata.id_ranges import group_id_ranges, read_id_ranges
from k2_ohlcv.lake.metadata.manifests import data_files, delete_files

#: Maximum length of ids that are compared one by one, because sorting longer ids takes too much memory. A
#: longer id makes a file a candidate by its length alone.
_MAX_ID_LENGTH = 64


def current_data_files(table: Table) -> list[LiveFile]:
    """The data files of the table's current snapshot.

    Raises:
        TableSpecError: the table has deletes of another engine that cannot be read.
    """
    reject_equality_deletes(table)
    files = live_files(table, table.metadata.current_snapshot_id)
    return [f for f in files if not f.is_delete]


def scan_tasks(table: Table, paths: Set[str]) -> list[FileScanTask]:
    """The scan tasks of data files of the current snapshot, with the delete files that apply to them."""
    snapshot = table.metadata.current_snapshot_id
    if snapshot is None or not paths:
        return []
    if delete_files(table, snapshot):
        return [task for task in table.scan().plan_files() if task.file.file_path in paths]
    return [FileScanTask(f) for f in data_files(table, snapshot) if f.file_path in paths]


def files_of_market(table: Table, files: Sequence[LiveFile], market: tuple[str, str]) -> set[str]:
    """The paths of the data files that have, or may have, trades of a market."""
    paths: set[str] = set()
    for ranges, unknown in read_id_ranges(table, files):
        is_market = (pl.col("exchange") == market[0]) & (pl.col("symbol") == market[1])
        paths |= set(ranges.filter(is_market)["path"].to_list()) | {f.path for f in unknown}
    return paths


class CandidateFiles:
    """The candidate files of a batch of incoming rows."""

    def __init__(
        self, rows: pa.Table, markets: Sequence[tuple[str, str]], generated_id: npt.NDArray[np.bool_]
    ) -> None:
        """Take the incoming rows.

        Args:
            rows: `market` (an index into `markets`), `trade_id` and `timestamp`.
            markets: exchange and symbol of each market.
            generated_id: rows with a generated id.
        """
        self._rows = rows
        self._generated_id = generated_id
        self._sorted: dict[int, _SortedIds] = {}
        bounds = group_id_ranges(pl.DataFrame(rows.select(["market", "trade_id"])), ["market"])
        names = pl.DataFrame(
            [(i, *market) for i, market in enumerate(markets)],
            schema={"market": bounds.schema["market"], "exchange": pl.String, "symbol": pl.String},
            orient="row",
        )
        self._bounds = bounds.rename(lambda name: name if name == "market" else f"incoming_{name}").join(
            names, on="market"
        )

    def scan_tasks(self, table: Table) -> list[FileScanTask]:
        """The scan tasks of the candidate files of the current snapshot, with the delete files that apply.

        Raises:
            TableSpecError: the table has deletes of another engine that cannot be read.
        """
        files = current_data_files(table)
        return scan_tasks(table, self._select_files(table, files))

    def _select_files(self, table: Table, files: Sequence[LiveFile]) -> set[str]:
        """The paths of the candidate files."""
        spans = {f.path: (to_micros(f.span.start), to_micros(f.span.end)) for f in files}
        chosen: set[str] = set()
        for ranges, unknown in read_id_ranges(table, files):
            chosen |= {f.path for f in unknown}
            of_markets = ranges.join(self._bounds, on=["exchange", "symbol"])
            overlapping = of_markets.filter(
                _is_at_most("incoming_least", "greatest") & _is_at_most("least", "incoming_greatest")
            ).select("path", "market", "least_length", "least", "greatest_length", "greatest")
            for path, market, *bounds in overlapping.iter_rows():
                if path not in chosen and self._sorted_ids(market).has_any_between(*bounds):
                    chosen.add(path)
            chosen |= self._select_by_time(of_markets.select("path", "market"), spans)
        return chosen

    def _sorted_ids(self, market: int) -> "_SortedIds":
        if market not in self._sorted:
            is_market = pc.equal(self._rows["market"], market)
            self._sorted[market] = _SortedIds(self._rows["trade_id"].filter(is_market))
        return self._sorted[market]

    def _select_by_time(self, files: pl.DataFrame, spans: dict[str, tuple[int, int]]) -> set[str]:
        """The files whose span includes the time of an incoming row with a generated id, per market."""
        if not self._generated_id.any():
            return set()
        rows = self._rows.filter(pa.array(self._generated_id))
        markets, moments = rows["market"].to_numpy(), rows["timestamp"].cast(pa.int64()).to_numpy()
        chosen: set[str] = set()
        for (market,), market_files in files.group_by("market"):
            paths = market_files["path"].to_list()
            bounds = np.array([spans[path] for path in paths], np.int64).reshape(-1, 2)
            times = np.sort(moments[markets == market])
            has_time = np.searchsorted(times, bounds[:, 0]) < np.searchsorted(times, bounds[:, 1])
            chosen |= {path for path, has in zip(paths, has_time.tolist(), strict=True) if has}
        return chosen


def _is_at_most(left: str, right: str) -> pl.Expr:
    """Whether one id column is at most another, by length and then text."""
    left_length, right_length = pl.col(f"{left}_length"), pl.col(f"{right}_length")
    is_shorter: pl.Expr = left_length < right_length
    return is_shorter | ((left_length == right_length) & (pl.col(left) <= pl.col(right)))


class _SortedIds:
    """The ids of a market, sorted within each length."""

    def __init__(self, ids: pa.ChunkedArray) -> None:
        lengths = pc.binary_length(ids)
        self._by_length: dict[int, npt.NDArray[np.bytes_] | None] = {}
        for length in pc.unique(lengths).to_pylist():
            if not 0 < length <= _MAX_ID_LENGTH:
                self._by_length[length] = None
                continue
            texts = ids.filter(pc.equal(lengths, length)).combine_chunks().cast(pa.large_string())
            self._by_length[length] = _sort_texts(texts, length)

    def has_any_between(self, least_length: int, least: str, greatest_length: int, greatest: str) -> bool:
        """Whether an id lies between two ids, both included."""
        for length, texts in self._by_length.items():
            if not least_length <= length <= greatest_length:
                continue
            if texts is None or least_length < length < greatest_length:
                return True
            start, end = 0, len(texts)
            if length == least_length:
                start = int(np.searchsorted(texts, least.encode()))
            if length == greatest_length:
                end = int(np.searchsorted(texts, greatest.encode(), side="right"))
            if start < end:
                return True
        return False


def _sort_texts(texts: pa.Array, length: int) -> npt.NDArray[np.bytes_]:
    """Sort texts of one length as fixed-width bytes, which have the same order as the texts."""
    starts = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8)
    data = np.frombuffer(texts.buffers()[2], np.uint8)[starts[0] : starts[-1]]
    values = np.frombuffer(data.tobytes(), f"S{length}", len(texts))
    return values if (values[1:] >= values[:-1]).all() else np.sort(values)

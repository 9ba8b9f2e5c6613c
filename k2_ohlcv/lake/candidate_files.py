"""Which data files may hold an incoming id, or the time of an incoming row without one.

A file is a candidate where an incoming id of a market lies in that market's id range there. New ids grow with
nearly every exchange, so that an append opens no file. Reading the files is in `dedupe`.
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
from k2_ohlcv.lake.metadata.files import LiveFile, data_files, delete_files, live_files
from k2_ohlcv.lake.metadata.id_ranges import group_id_ranges, read_id_ranges

#: Ids that are longer are compared with a file's range as a whole, not one by one: sorting them takes memory.
_MAX_ID_LENGTH = 64
#: The least and greatest id of a market, each as length and text.
_Bounds = tuple[int, str, int, str]


def current_data_files(table: Table) -> list[LiveFile]:
    """The data files of the table's current snapshot.

    Raises:
        ContractError: the table has deletes of another engine that cannot be read.
    """
    reject_equality_deletes(table)
    live = live_files(table, table.metadata.current_snapshot_id)
    return [f for f in live if not f.is_delete]


def scan_tasks(table: Table, paths: Set[str]) -> list[FileScanTask]:
    """Data files of the current snapshot, ready to be read, with the delete files that bear on them."""
    snapshot = table.metadata.current_snapshot_id
    if snapshot is None or not paths:
        return []
    if delete_files(table, snapshot):
        return [task for task in table.scan().plan_files() if task.file.file_path in paths]
    return [FileScanTask(f) for f in data_files(table, snapshot) if f.file_path in paths]


def files_of_market(table: Table, files: Sequence[LiveFile], market: tuple[str, str]) -> set[str]:
    """The data files that hold trades of a market."""
    found: set[str] = set()
    for frame, unknown in read_id_ranges(table, files):
        mine = (pl.col("exchange") == market[0]) & (pl.col("symbol") == market[1])
        found |= set(frame.filter(mine)["path"].to_list()) | {f.path for f in unknown}
    return found


class CandidateFiles:
    """The data files that have to be looked into for some incoming rows."""

    def __init__(
        self, rows: pa.Table, markets: Sequence[tuple[str, str]], made: npt.NDArray[np.bool_]
    ) -> None:
        """For rows of `market` (an index into `markets`), `trade_id` and `timestamp`."""
        self._rows = rows
        self._made = made
        self._sorted: dict[int, _SortedIds] = {}
        bounds = group_id_ranges(pl.DataFrame(rows.select(["market", "trade_id"])), ["market"])
        names = pl.DataFrame(
            [(i, *market) for i, market in enumerate(markets)],
            schema={"market": bounds.schema["market"], "exchange": pl.String, "symbol": pl.String},
            orient="row",
        )
        self._bounds = bounds.rename(lambda name: name if name == "market" else f"our_{name}").join(
            names, on="market"
        )

    def scan_tasks(self, table: Table) -> list[FileScanTask]:
        """The candidates of the table's current snapshot, with the delete files that bear on them.

        Raises:
            ContractError: the table has deletes of another engine that cannot be read.
        """
        live = current_data_files(table)
        return scan_tasks(table, self._select_files(table, live))

    def _select_files(self, table: Table, live: Sequence[LiveFile]) -> set[str]:
        spans = {f.path: (to_micros(f.span.start), to_micros(f.span.end)) for f in live}
        chosen: set[str] = set()
        for frame, unknown in read_id_ranges(table, live):
            chosen |= {f.path for f in unknown}
            ours = frame.join(self._bounds, on=["exchange", "symbol"])
            near = ours.filter(
                _is_not_after("our_least", "greatest") & _is_not_after("least", "our_greatest")
            ).select("path", "market", "least_length", "least", "greatest_length", "greatest")
            for path, market, *bounds in near.iter_rows():
                if path not in chosen and self._ids(market).has_any_between(*bounds):
                    chosen.add(path)
            chosen |= self._of_same_times(ours.select("path", "market"), spans)
        return chosen

    def _ids(self, market: int) -> "_SortedIds":
        if market not in self._sorted:
            mine = pc.equal(self._rows["market"], market)
            self._sorted[market] = _SortedIds(self._rows["trade_id"].filter(mine))
        return self._sorted[market]

    def _of_same_times(self, files: pl.DataFrame, spans: dict[str, tuple[int, int]]) -> set[str]:
        """The files of a market that span the time of an incoming row whose id was made."""
        if not self._made.any():
            return set()
        rows = self._rows.filter(pa.array(self._made))
        markets, moments = rows["market"].to_numpy(), rows["timestamp"].cast(pa.int64()).to_numpy()
        chosen: set[str] = set()
        for (market,), some in files.group_by("market"):
            paths = some["path"].to_list()
            edges = np.array([spans[path] for path in paths], np.int64).reshape(-1, 2)
            times = np.sort(moments[markets == market])
            hit = np.searchsorted(times, edges[:, 0]) < np.searchsorted(times, edges[:, 1])
            chosen |= {path for path, is_hit in zip(paths, hit.tolist(), strict=True) if is_hit}
        return chosen


def _is_not_after(one: str, other: str) -> pl.Expr:
    """Whether an id is not greater than another, by length and then text."""
    length, other_length = pl.col(f"{one}_length"), pl.col(f"{other}_length")
    shorter: pl.Expr = length < other_length
    return shorter | ((length == other_length) & (pl.col(one) <= pl.col(other)))


class _SortedIds:
    """Ids of a market, sorted, those of each length for themselves."""

    def __init__(self, ids: pa.ChunkedArray) -> None:
        lengths = pc.binary_length(ids)
        self._of_length: dict[int, npt.NDArray[np.bytes_] | None] = {}
        for length in pc.unique(lengths).to_pylist():
            if not 0 < length <= _MAX_ID_LENGTH:
                self._of_length[length] = None
                continue
            texts = ids.filter(pc.equal(lengths, length)).combine_chunks().cast(pa.large_string())
            self._of_length[length] = _sorted_texts(texts, length)

    def has_any_between(self, least_length: int, least: str, greatest_length: int, greatest: str) -> bool:
        """Whether an id lies between two, both included."""
        for length, texts in self._of_length.items():
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


def _sorted_texts(texts: pa.Array, length: int) -> npt.NDArray[np.bytes_]:
    """Texts of one length as fixed-width bytes, which compare as the texts do."""
    starts = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, texts.offset * 8)
    data = np.frombuffer(texts.buffers()[2], np.uint8)[starts[0] : starts[-1]]
    values = np.frombuffer(data.tobytes(), f"S{length}", len(texts))
    return values if (values[1:] >= values[:-1]).all() else np.sort(values)

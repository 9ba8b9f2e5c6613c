"""Buffers rejected rows on disk until the commit, because every row of a large file may be rejected."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Reasons are stored and identify a rejected row. A new text would store the same row again.
CONFLICT = "conflict: this trade_id is stored, or came before, with other values"
TOO_LATE = "too late: the trades of that time have expired, and their candles are frozen"

REJECTED_BUFFER_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("exchange", pa.string()),
        ("symbol", pa.string()),
    ]
)
_BATCH_ROWS = 250_000
_BATCH_BYTES = 64 << 20
# Rows per write. The raw text of a row has up to `MAX_RAW_TEXT` characters.
_CHUNK_ROWS = 16_384


class RejectedBuffer:
    """The rejected rows of all files, written to disk in order of arrival."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "rejected.arrow"
        self._sink: pa.OSFile | None = None
        self._writer: pa.RecordBatchWriter | None = None

    def add(self, rows: pa.Table, source: str) -> None:
        """Add rejected rows (`rows.REJECTED_SCHEMA`) of a source."""
        if rows.num_rows:
            columns = [
                pa.repeat(pa.scalar(source), rows.num_rows),
                *(rows[name] for name in REJECTED_BUFFER_SCHEMA.names[1:]),
            ]
            self.add_rows(pa.Table.from_arrays(columns, schema=REJECTED_BUFFER_SCHEMA))

    def add_rows(self, rows: pa.Table) -> None:
        """Add rows that have a source column."""
        if not rows.num_rows:
            return
        if self._writer is None:
            self._sink = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_stream(
                self._sink, REJECTED_BUFFER_SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4")
            )
        self._writer.write_table(rows, max_chunksize=_CHUNK_ROWS)

    def read_batches(self) -> Iterator[pa.Table]:
        """Read all rows in bounded batches. No rows can be added afterwards."""
        if self._writer is None or self._sink is None:
            return
        self._writer.close()
        self._sink.close()
        batches: list[pa.RecordBatch] = []
        rows = size = 0
        with pa.OSFile(str(self._path)) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                batches.append(batch)
                rows, size = rows + batch.num_rows, size + batch.nbytes
                if rows >= _BATCH_ROWS or size >= _BATCH_BYTES:
                    yield pa.Table.from_batches(batches)
                    batches, rows, size = [], 0, 0
        if batches:
            yield pa.Table.from_batches(batches)


def build_rejected_rows(
    rows: pa.Table,
    which: npt.NDArray[np.bool_],
    *,
    reason: str,
    markets: Sequence[tuple[str, str]],
    sources: Sequence[str],
) -> pa.Table:
    """Convert the selected trades of a batch to rejected rows.

    The raw text is generated from the values: timestamp, price, quantity, trade_id.
    """
    if not which.any():
        return REJECTED_BUFFER_SCHEMA.empty_table()
    rejected = rows.filter(pa.array(which)).to_pylist()
    return pa.Table.from_pylist(
        [
            {
                "source": sources[row["file"]],
                "line": row["line"],
                "reason": reason,
                "raw": f"{row['timestamp'].isoformat()},{row['price']},{row['quantity']},{row['trade_id']}",
                "exchange": markets[row["market"]][0],
                "symbol": markets[row["market"]][1],
            }
            for row in rejected
        ],
        schema=REJECTED_BUFFER_SCHEMA,
    )

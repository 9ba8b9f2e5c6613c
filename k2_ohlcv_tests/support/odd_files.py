"""Contents of landing files, to damage or to wrap."""

import io
import zipfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

#: Seconds since the epoch.
T = 1723161255
CSV = "timestamp,price,quantity,trade_id\n" + "".join(f"{T + i},{i + 1}.5,1,{i}\n" for i in range(300))


def parquet_bytes(**columns: Any) -> bytes:
    """A Parquet file of three trades, with further or other columns."""
    rows = {"timestamp": [T] * 3, "price": [1.5] * 3, "size": [2.0] * 3} | columns
    sink = io.BytesIO()
    pq.write_table(pa.table(rows), sink)
    return sink.getvalue()


def zip_bytes(name: str = "trades.csv", text: str = CSV) -> bytes:
    """A zip archive of one text file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return sink.getvalue()

"""The layout of a plain table with a header, CSV or Parquet. Columns are found by name, in any order.

The columns are `timestamp`, `price`, `quantity` (or `amount`, `qty`, `size`), and optionally `trade_id`
(or `id`), `symbol` and `exchange`. Other columns are not read.
"""

from collections.abc import Sequence

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.sources.formats.layout import Layout

_COLUMN_NAMES = {
    "timestamp": ("timestamp",),
    "price": ("price",),
    "quantity": ("quantity", "amount", "qty", "size"),
    "trade_id": ("trade_id", "id"),
    "symbol": ("symbol",),
    "exchange": ("exchange",),
}
_REQUIRED_COLUMNS = ("timestamp", "price", "quantity")


def normalize_header(header: Sequence[str]) -> tuple[str, ...]:
    """Normalize column names: without spaces and quotes, in lower case."""
    return tuple(name.strip().strip('"').strip().lower() for name in header)


def layout_from_header(header: Sequence[str]) -> Layout | None:
    """Make the layout for a header. None if a required column is missing.

    Raises:
        BadFileError: a column appears more than once.
    """
    names = normalize_header(header)
    roles: dict[str, int] = {}
    for role, choices in _COLUMN_NAMES.items():
        for name in choices:
            if names.count(name) > 1:
                raise BadFileError(f"the column {name} appears {names.count(name)} times: keep one of them")
            if name in names:
                roles[role] = names.index(name)
                break
    if any(role not in roles for role in _REQUIRED_COLUMNS):
        return None
    return Layout("plain table", "table", "", roles, width=len(names))

"""A plain table with a header, CSV or Parquet: the columns are found by their names, in any order.

`timestamp`, `price`, `quantity` (or `amount`, `qty`, `size`), and where there are `trade_id` (or `id`),
`symbol` and `exchange`. Other columns are not read.
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
    """The names of a header without spaces, quotes and case."""
    return tuple(name.strip().strip('"').strip().lower() for name in header)


def layout_from_header(header: Sequence[str]) -> Layout | None:
    """The layout of a table of that header, or None where a required column is missing.

    Raises:
        BadFileError: a column that is needed is there twice.
    """
    names = normalize_header(header)
    roles: dict[str, int] = {}
    for role, choices in _COLUMN_NAMES.items():
        for name in choices:
            if names.count(name) > 1:
                raise BadFileError(f"the column {name} is there {names.count(name)} times: keep one of them")
            if name in names:
                roles[role] = names.index(name)
                break
    if any(role not in roles for role in _REQUIRED_COLUMNS):
        return None
    return Layout("plain table", "table", "", roles, width=len(names))

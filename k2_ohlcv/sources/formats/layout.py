"""The layout of a dump, and the test whether a row matches the layout."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# The pattern of each kind of cell, to recognise the layout of a file without a header.
_CELL_PATTERNS = {
    "i": re.compile(r"[0-9]+", re.ASCII),
    "d": re.compile(r"[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?", re.ASCII),
    "b": re.compile(r"true|false", re.ASCII | re.IGNORECASE),
    "t": re.compile(r"[0-9]{9,19}(\.[0-9]+)?", re.ASCII),
}


@dataclass(frozen=True)
class Layout:
    """The columns of a dump.

    Attributes:
        name: the name in messages.
        family: the value for `--format`.
        cells: one letter per column, for files without a header: `i` an integer, `d` a number, `b` true or
            false, `t` a time since the epoch. Empty if the layout always has a header.
        roles: role -> position of its column.
        headers: the known headers of this layout, in lower case.
        width: the number of columns.
        daily_ids: whether ids start again each UTC day. If not, an id is unique in its market.
    """

    name: str
    family: str
    cells: str
    roles: Mapping[str, int]
    headers: tuple[tuple[str, ...], ...] = ()
    width: int = 0
    daily_ids: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.width or len(self.cells))

    def has_valid_cells(self, row: Sequence[str]) -> bool:
        """Whether the cells of a row match this layout."""
        return len(row) == len(self.cells) and all(
            _CELL_PATTERNS[kind].fullmatch(cell.strip()) for kind, cell in zip(self.cells, row, strict=True)
        )


def is_number(cell: str) -> bool:
    """Whether a cell is a plain number. Column names are not numbers."""
    return bool(re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", cell, re.ASCII))

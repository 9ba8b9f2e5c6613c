"""What a layout of a dump is, and how a line is held against it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What a cell must look like for a file without a header to be of a layout.
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
        name: as messages call it.
        family: the word for it in `--format`.
        cells: one letter a column, for files without a header: `i` an integer, `d` a number, `b` true or
            false, `t` a time since the epoch. Empty where the layout always has a header.
        roles: role of a trade -> position of its column.
        headers: the headers that this layout is known to have, in lower case.
        width: how many columns there are.
        daily_ids: whether its ids begin anew each UTC day; else an id is unique in its market.
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
        """Whether a row without a header looks like this layout."""
        return len(row) == len(self.cells) and all(
            _CELL_PATTERNS[kind].fullmatch(cell.strip()) for kind, cell in zip(self.cells, row, strict=True)
        )


def is_number(cell: str) -> bool:
    """Whether a cell is a plain number, and so not the name of a column."""
    return bool(re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", cell, re.ASCII))

"""Parses blocks of CSV text into raw rows, with the physical line number of each row.

Arrow parses a block in one step if every line has the right number of fields. Other blocks are parsed line by
line, so a malformed line does not affect the following lines. Both ways give the same rows and line numbers.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from k2_ohlcv.sources.columns import Int64s
from k2_ohlcv.sources.formats.layout import Layout
from k2_ohlcv.sources.line_blocks import LineBlock
from k2_ohlcv.sources.rows import BROKEN_SCHEMA, RawRows, truncate_raw

_GAP = re.compile(rb"\n\r?\n")
# Cells without quotes, or whole cells in quotes with doubled quotes inside.
_WHOLE_CELLS = re.compile(r"""("([^"]|"")*"|[^",]*)(,("([^"]|"")*"|[^",]*))*""")
_UTF8_MARK = b"\xef\xbb\xbf"
# Lines in memory as Python texts at one time, about 1 kB each.
_GROUP_LINES = 20_000


def decode_lines(data: bytes) -> Iterator[str]:
    """Decode the lines of a block, without line ends. Bytes that are not UTF-8 are replaced."""
    return map(_decode_line, BytesIO(data))  # splits only at newlines, like the count of lines


def _decode_line(line: bytes) -> str:
    return line.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")


def split_fields(line: str) -> list[str] | None:
    """Split a line into fields. None if quotes do not enclose whole cells."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line])) if _WHOLE_CELLS.fullmatch(line) else None
    except csv.Error:  # a cell of more than 128 kB
        return None


def parse_block(block: LineBlock, layout: Layout) -> RawRows:
    """Parse the rows of a block. Blank lines are not rows."""
    if block.error:
        return _broken_block(block, layout, block.error)
    count = block.count_lines() if block.data else 0
    table = _parse_columns(block, layout) if _is_simple(block.data) else None
    if table is None or table.num_rows != count:
        return _parse_by_line(block, layout)
    columns = {role: _single_column(table[f"c{at}"]) for role, at in layout.roles.items()}
    lines = np.arange(block.first_line, block.first_line + count, dtype=np.int64)
    return RawRows(columns, lines, _RawText(block, lines))


class _RawText:
    """The text of a row. Lines are decoded only for a block that has a rejected row."""

    def __init__(self, block: LineBlock, lines: Int64s) -> None:
        self._block = block
        self._lines = lines
        self._texts: list[str] = []

    def __call__(self, row: int) -> str:
        if not self._texts:
            self._texts = [truncate_raw(text) for text in decode_lines(self._block.data)]
        return self._texts[int(self._lines[row]) - self._block.first_line]


def _is_simple(data: bytes) -> bool:
    """Whether Arrow and Python's csv find the same rows on the same lines.

    Arrow also ends a row at a lone carriage return, and parses some empty lines as rows of empty cells.
    Arrow differs for quotes inside a cell or around several lines. Arrow drops a byte order mark from any
    block.
    """
    if not data or data.startswith((b"\n", b"\r\n", _UTF8_MARK)) or _GAP.search(data):
        return False
    if data.count(b"\r") != data.count(b"\r\n"):
        return False
    return b'"' not in data or _quotes_enclose_cells(data)


def _quotes_enclose_cells(data: bytes) -> bool:
    """Whether each pair of quotes encloses one whole cell on one line."""
    characters = np.frombuffer(b"\n" + data + b"\n", np.uint8)
    quotes = np.flatnonzero(characters == ord('"'))
    if len(quotes) % 2:
        return False
    opening, closing = quotes[0::2], quotes[1::2]
    newlines = np.flatnonzero(characters == ord("\n"))
    same_line = np.searchsorted(newlines, opening) == np.searchsorted(newlines, closing)
    before, after = characters[opening - 1], characters[closing + 1]
    starts = (before == ord(",")) | (before == ord("\n"))
    ends = (after == ord(",")) | (after == ord("\n")) | (after == ord("\r"))
    return bool((same_line & starts & ends).all())


def _single_column(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _parse_columns(block: LineBlock, layout: Layout) -> pa.Table | None:
    names = [f"c{i}" for i in range(layout.width)]
    required = [names[at] for at in layout.roles.values()]
    try:
        return pcsv.read_csv(
            pa.py_buffer(block.data),
            # One thread, because the caller parses several blocks in parallel. One chunk keeps the row order.
            read_options=pcsv.ReadOptions(
                column_names=names, block_size=len(block.data) + 1, use_threads=False
            ),
            parse_options=pcsv.ParseOptions(ignore_empty_lines=False),
            convert_options=pcsv.ConvertOptions(
                column_types=dict.fromkeys(required, pa.string()),
                include_columns=required,
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None


@dataclass
class _ParsedLines:
    """Parsed lines: cells of the required columns, and broken lines."""

    cells: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    broken: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, number: int, text: str, layout: Layout) -> None:
        if not text.strip():
            return
        fields = split_fields(text)
        if fields is None:
            self.broken.append((number, "a quote is not closed, or within a cell", truncate_raw(text)))
        elif len(fields) != layout.width:
            reason = f"has {len(fields)} fields, not {layout.width}"
            self.broken.append((number, reason, truncate_raw(text)))
        else:
            self.cells.append([fields[at] for at in layout.roles.values()])
            self.lines.append(number)

    def columns(self, layout: Layout) -> list[pa.Array]:
        return [
            pa.array([row[i] for row in self.cells], pa.string()) for i, _ in enumerate(layout.roles.values())
        ]


def _parse_by_line(block: LineBlock, layout: Layout) -> RawRows:
    # Blank lines are skipped before decoding: a small compressed file may have hundreds of millions.
    lines_with_text = (
        (number, _decode_line(line))
        for number, line in enumerate(BytesIO(block.data), start=block.first_line)
        if not line.isspace()
    )
    columns, broken, lines = (
        [_ParsedLines().columns(layout)],
        [BROKEN_SCHEMA.empty_table()],
        [np.empty(0, np.int64)],
    )
    while numbered_texts := list(islice(lines_with_text, _GROUP_LINES)):
        group = _ParsedLines()
        for number, text in numbered_texts:
            group.add(number, text, layout)
        columns.append(group.columns(layout))
        lines.append(np.array(group.lines, np.int64))
        broken.append(_broken_rows(group.broken))
    merged = [pa.concat_arrays(parts) for parts in zip(*columns, strict=True)]
    numbers = np.concatenate(lines)
    return RawRows(
        dict(zip(layout.roles, merged, strict=True)),
        numbers,
        _RawText(block, numbers),
        pa.concat_tables(broken).combine_chunks(),
    )


def _broken_block(block: LineBlock, layout: Layout, reason: str) -> RawRows:
    """Make the raw rows of a block whose only line is not a row."""
    (raw,) = decode_lines(block.data)
    no_lines = np.empty(0, np.int64)
    columns = dict(zip(layout.roles, _ParsedLines().columns(layout), strict=True))
    return RawRows(
        columns,
        no_lines,
        _RawText(block, no_lines),
        _broken_rows([(block.first_line, reason, truncate_raw(raw))]),
    )


def _broken_rows(rows: list[tuple[int, str, str]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, BROKEN_SCHEMA, strict=True)], schema=BROKEN_SCHEMA
    )

"""Text to rows, block by block, with the physical line of every row.

A block whose every line has the right number of fields is parsed at once; any other is taken line by line, so
that a malformed row costs itself and nothing after it.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.sources.batch import Rows
from k2_ohlcv.sources.container import Stream, kind_of, read_all
from k2_ohlcv.sources.layout import Layout

#: Some 200,000 rows of a Binance dump: big enough for vector speed, small enough to have several in flight.
BLOCK_BYTES = 16 << 20
_GAP = re.compile(rb"\n\r?\n")
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Block:
    """Whole lines of a file, and the 1-based number of the first."""

    data: bytes
    first_line: int


def blocks(stream: Stream, path: Path, size: int = BLOCK_BYTES) -> Iterator[Block]:
    """A stream cut into blocks of whole lines.

    Raises:
        BadFileError: it is not text, or has a line longer than a block.
    """
    line, rest = 1, b""
    while chunk := read_all(stream, size):
        if line == 1 and not rest:
            chunk = _checked_start(chunk, path)
        chunk = rest + chunk
        cut = chunk.rfind(b"\n") + 1
        if cut == 0 and len(chunk) > 2 * size:
            raise BadFileError(
                f"{path}: line {line} is longer than {size:,} bytes: this is not a table of trades"
            )
        rest = chunk[cut:]
        if cut:
            block = Block(chunk[:cut] if rest else chunk, line)
            line += block.data.count(b"\n")
            yield block
    if rest:
        yield Block(rest, line)


def _checked_start(chunk: bytes, path: Path) -> bytes:
    if kind_of(chunk) != "text":
        raise BadFileError(f"{path}: holds another {kind_of(chunk)} file inside: unpack it first")
    if chunk.startswith(_UTF16_MARKS):
        raise BadFileError(f"{path}: is UTF-16 text: save it as UTF-8")
    return chunk.removeprefix(_UTF8_MARK)


def decoded_lines(block: Block) -> list[str]:
    """The lines of a block as text, without their ends; what is not UTF-8 is replaced."""
    lines = block.data.decode("utf-8", "replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def fields_of(line: str) -> list[str] | None:
    """The fields of a line, or None where a quote is not closed."""
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error:
        return None


def parse(block: Block, layout: Layout) -> Rows:
    """The rows of a block. Lines of blanks are not rows."""
    count = block.data.count(b"\n") + (not block.data.endswith(b"\n"))
    # Arrow takes some empty lines for rows of empty cells.
    gaps = not block.data or block.data.startswith((b"\n", b"\r\n")) or _GAP.search(block.data)
    table = None if gaps else _parse_at_once(block, layout)
    if table is None or table.num_rows != count:
        return _parse_by_line(block, layout)
    columns = {role: _one(table[f"c{at}"]) for role, at in layout.roles.items()}
    lines = np.arange(block.first_line, block.first_line + count, dtype=np.int64)
    cache: list[list[str]] = []

    def raw(row: int) -> str:
        if not cache:  # only a block with a bad row pays for its lines as text
            cache.append(decoded_lines(block))
        return cache[0][row]

    return Rows(columns, lines, raw)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _parse_at_once(block: Block, layout: Layout) -> pa.Table | None:
    names = [f"c{i}" for i in range(layout.width)]
    wanted = [names[at] for at in layout.roles.values()]
    try:
        return pcsv.read_csv(
            pa.py_buffer(block.data),
            # One thread: the caller parses several blocks side by side. One chunk: rows keep their place.
            read_options=pcsv.ReadOptions(
                column_names=names, block_size=len(block.data) + 1, use_threads=False
            ),
            parse_options=pcsv.ParseOptions(ignore_empty_lines=False),
            convert_options=pcsv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()),
                include_columns=wanted,
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None


def _parse_by_line(block: Block, layout: Layout) -> Rows:
    rows: list[list[str]] = []
    lines: list[int] = []
    raws: list[str] = []
    broken: list[tuple[int, str, str]] = []
    for number, text in enumerate(decoded_lines(block), start=block.first_line):
        if not text.strip():
            continue
        fields = fields_of(text)
        if fields is None:
            broken.append((number, "a quote is not closed", text))
        elif len(fields) != layout.width:
            broken.append((number, f"has {len(fields)} fields, not {layout.width}", text))
        else:
            rows.append(fields)
            lines.append(number)
            raws.append(text)
    columns = {role: pa.array([row[at] for row in rows], pa.string()) for role, at in layout.roles.items()}
    return Rows(columns, np.array(lines, np.int64), raws.__getitem__, tuple(broken))

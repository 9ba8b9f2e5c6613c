"""Detects the layout of a text from its header, else from the values of its first rows.

The file name is not used.
"""

from dataclasses import replace
from itertools import dropwhile, islice
from pathlib import Path

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.domain.printable import make_printable, make_printable_path
from k2_ohlcv.sources.csv_blocks import decode_lines, split_fields
from k2_ohlcv.sources.formats import binance, generic, kraken
from k2_ohlcv.sources.formats.layout import Layout, is_number
from k2_ohlcv.sources.line_blocks import LineBlock

FORMATS = ("auto", "binance", "kraken", "table")
_DUMP_LAYOUTS = (*binance.LAYOUTS, kraken.LAYOUT)
_SAMPLE_LINES = 50


def check_format(name: str) -> None:
    """Check the name of a format.

    Raises:
        UsageError: the format is unknown.
    """
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}: choose one of {', '.join(FORMATS)}")


def detect_format(first: LineBlock, path: Path, name: str) -> tuple[Layout, LineBlock]:
    """Detect the layout of a text, and remove the header from its first block.

    Args:
        first: the first block of the text.
        path: the file, for messages.
        name: `auto`, or the family of layouts that the caller chose.

    Raises:
        BadFileError: the text is empty, or no layout fits.
    """
    numbered = enumerate(decode_lines(first.data))
    lines = list(islice(dropwhile(lambda numbered: not numbered[1].strip(), numbered), _SAMPLE_LINES))
    if not lines:
        raise BadFileError(f"{make_printable_path(path)}: the file has no rows: download it again")
    start, line = lines[0]
    head = split_fields(line) or [line]
    # A header has no numbers. A row with a number is data, even if its first cell is broken.
    if not is_number(head[0]) and not any(is_number(cell) for cell in head[1:]):
        layout = _layout_by_header(head, path, name)
        return layout, _skip_lines(first, start + 1)
    sample = [fields for _, text in lines if text.strip() and (fields := split_fields(text))]
    scores = [
        (sum(layout.has_valid_cells(row) for row in sample), layout)
        for layout in _DUMP_LAYOUTS
        if name in ("auto", layout.family)
    ]
    best, layout = max(scores, key=lambda scored: scored[0], default=(0, _DUMP_LAYOUTS[0]))
    if 2 * best < len(sample) or not best:
        raise BadFileError(
            _unknown_format_error(
                path, name, f"without a header, whose first row is '{make_printable(line, 120)}'"
            )
        )
    return layout, first


def _layout_by_header(head: list[str], path: Path, name: str) -> Layout:
    names = generic.normalize_header(head)
    for layout in _DUMP_LAYOUTS:
        if names in layout.headers and name in ("auto", layout.family):
            return layout
    try:
        table_layout = generic.layout_from_header(head) if name in ("auto", "table") else None
    except BadFileError as error:
        raise BadFileError(f"{make_printable_path(path)}: {error}") from None
    if table_layout is None:
        columns = ", ".join(head)
        # Bytes that are not UTF-8 became the replacement character. A message with them would not help.
        is_text = "\N{REPLACEMENT CHARACTER}" not in columns
        description = (
            f"with the columns {make_printable(columns)}" if is_text else "whose first line is not UTF-8 text"
        )
        raise BadFileError(_unknown_format_error(path, name, description))
    return table_layout


def _skip_lines(block: LineBlock, count: int) -> LineBlock:
    at = 0
    for _ in range(count):
        at = block.data.find(b"\n", at) + 1 or len(block.data)
    error = block.error if at < len(block.data) else None
    return replace(block, data=block.data[at:], first_line=block.first_line + count, error=error)


def _unknown_format_error(path: Path, name: str, description: str) -> str:
    expected = "any known format" if name == "auto" else f"the format {name}"
    return (
        f"{make_printable_path(path)}: a table {description} is not of {expected}. "
        "The known formats are Binance's trades and aggTrades dumps, Kraken's dumps (unixtime,price,volume), "
        "and tables with a header: timestamp, price, quantity (or amount, qty, size), "
        "optionally trade_id (or id), symbol, exchange"
    )

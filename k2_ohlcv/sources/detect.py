"""Which layout a text has: by its header, else by what its first rows hold. Never by its name."""

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
    """Hold the name of a format against those that there are.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}: there are {', '.join(FORMATS)}")


def detect_format(first: LineBlock, path: Path, name: str) -> tuple[Layout, LineBlock]:
    """The layout of a text, and its first block without the header.

    Args:
        first: the first block of the text.
        path: the file, for messages.
        name: `auto`, or the family that the caller says it is of.

    Raises:
        BadFileError: it is empty, or no layout fits.
    """
    numbered = enumerate(decode_lines(first.data))
    lines = list(islice(dropwhile(lambda numbered: not numbered[1].strip(), numbered), _SAMPLE_LINES))
    if not lines:
        raise BadFileError(f"{make_printable_path(path)}: the file holds no rows: fetch it again")
    start, line = lines[0]
    head = split_fields(line) or [line]
    # A row with a number in it is data, be its first cell ever so broken.
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
        found = generic.layout_from_header(head) if name in ("auto", "table") else None
    except BadFileError as error:
        raise BadFileError(f"{make_printable_path(path)}: {error}") from None
    if found is None:
        columns = ", ".join(head)
        # Bytes that are not UTF-8 have become this character. A whole line of them tells nobody anything.
        is_text = "\N{REPLACEMENT CHARACTER}" not in columns
        what = (
            f"with the columns {make_printable(columns)}" if is_text else "whose first line is not UTF-8 text"
        )
        raise BadFileError(_unknown_format_error(path, name, what))
    return found


def _skip_lines(block: LineBlock, count: int) -> LineBlock:
    at = 0
    for _ in range(count):
        at = block.data.find(b"\n", at) + 1 or len(block.data)
    fault = block.error if at < len(block.data) else None
    return replace(block, data=block.data[at:], first_line=block.first_line + count, error=fault)


def _unknown_format_error(path: Path, name: str, what: str) -> str:
    wanted = "any known format" if name == "auto" else f"the format {name}"
    return (
        f"{make_printable_path(path)}: a table {what} is not of {wanted}. Known are Binance's trades and "
        "aggTrades dumps, Kraken's (unixtime,price,volume), and a table with a header: timestamp, price, "
        "quantity (or amount, qty, size), optionally trade_id (or id), symbol, exchange"
    )

"""Which layout a text has: by its header, else by what its first rows hold. Never by its name."""

from dataclasses import replace
from itertools import dropwhile, islice
from pathlib import Path

from k2_ohlcv.domain.errors import BadFileError, UsageError
from k2_ohlcv.domain.printable import printable, printable_path
from k2_ohlcv.sources import binance, kraken, table
from k2_ohlcv.sources.blocks import Block
from k2_ohlcv.sources.layout import Layout, is_number
from k2_ohlcv.sources.lines import decoded_lines, fields_of

FORMATS = ("auto", "binance", "kraken", "table")
_DUMPS = (*binance.LAYOUTS, kraken.LAYOUT)
_SAMPLE = 50


def check_format(name: str) -> None:
    """Hold the name of a format against those that there are.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}: there are {', '.join(FORMATS)}")


def recognise(first: Block, path: Path, name: str) -> tuple[Layout, Block]:
    """The layout of a text, and its first block without the header.

    Args:
        first: the first block of the text.
        path: the file, for messages.
        name: `auto`, or the family that the caller says it is of.

    Raises:
        BadFileError: it is empty, or no layout fits.
    """
    numbered = enumerate(decoded_lines(first.data))
    lines = list(islice(dropwhile(lambda numbered: not numbered[1].strip(), numbered), _SAMPLE))
    if not lines:
        raise BadFileError(f"{printable_path(path)}: the file holds no rows: fetch it again")
    start, line = lines[0]
    head = fields_of(line) or [line]
    # A row with a number in it is data, be its first cell ever so broken.
    if not is_number(head[0]) and not any(is_number(cell) for cell in head[1:]):
        layout = _by_header(head, path, name)
        return layout, _after(first, start + 1)
    sample = [fields for _, text in lines if text.strip() and (fields := fields_of(text))]
    scores = [
        (sum(layout.fits(row) for row in sample), layout)
        for layout in _DUMPS
        if name in ("auto", layout.family)
    ]
    best, layout = max(scores, key=lambda scored: scored[0], default=(0, _DUMPS[0]))
    if 2 * best < len(sample) or not best:
        raise BadFileError(
            _unknown(path, name, f"without a header, whose first row is '{printable(line, 120)}'")
        )
    return layout, first


def _by_header(head: list[str], path: Path, name: str) -> Layout:
    names = table.normal(head)
    for layout in _DUMPS:
        if names in layout.headers and name in ("auto", layout.family):
            return layout
    try:
        found = table.layout(head) if name in ("auto", "table") else None
    except BadFileError as error:
        raise BadFileError(f"{printable_path(path)}: {error}") from None
    if found is None:
        columns = ", ".join(head)
        # Bytes that are not UTF-8 have become this character. A whole line of them tells nobody anything.
        is_text = "\N{REPLACEMENT CHARACTER}" not in columns
        what = f"with the columns {printable(columns)}" if is_text else "whose first line is not UTF-8 text"
        raise BadFileError(_unknown(path, name, what))
    return found


def _after(block: Block, count: int) -> Block:
    at = 0
    for _ in range(count):
        at = block.data.find(b"\n", at) + 1 or len(block.data)
    fault = block.fault if at < len(block.data) else None
    return replace(block, data=block.data[at:], first_line=block.first_line + count, fault=fault)


def _unknown(path: Path, name: str, what: str) -> str:
    wanted = "any known format" if name == "auto" else f"the format {name}"
    return (
        f"{printable_path(path)}: a table {what} is not of {wanted}. Known are Binance's trades and "
        "aggTrades dumps, Kraken's (unixtime,price,volume), and a table with a header: timestamp, price, "
        "quantity (or amount, qty, size), optionally trade_id (or id), symbol, exchange"
    )

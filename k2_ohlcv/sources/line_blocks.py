"""Cuts a stream of text into blocks of whole lines. Limits on lines and line lengths bound the memory.

Two kinds of lines get a block of their own, with an error: a line that is too long, and a last line without
an end of line. Only the start of a long line is stored. A last line without an end may be cut off.
Parsing the lines is in `csv_blocks`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.domain.printable import make_printable_path
from k2_ohlcv.sources.compression import Stream, read_all, reject_unsupported
from k2_ohlcv.sources.file_kinds import HEAD_BYTES, TEXT, detect_file_kind
from k2_ohlcv.sources.rows import MAX_RAW_TEXT, UNTERMINATED_REASON

#: About 200,000 rows of a Binance dump: large enough for vector speed, small enough for parallel blocks.
MAX_BLOCK_BYTES = 16 << 20
#: The most lines of a block. A row takes about 300 bytes during conversion, even if its line is short.
MAX_BLOCK_LINES = 250_000
#: The longest line in bytes. A line of a dump has about 80.
MAX_LINE_BYTES = 1 << 20
# A UTF-8 character has at most four bytes.
_RAW_BYTES = 4 * (MAX_RAW_TEXT + 1)
_UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class LineBlock:
    """Whole lines of a file.

    Attributes:
        data: the lines, or the start of one line that is too long.
        first_line: the 1-based number of the first line.
        error: the reason why the only line of the block is not a row. None if the lines can be parsed.
    """

    data: bytes
    first_line: int
    error: str | None = None

    def count_lines(self) -> int:
        """Count the lines, including a last line without an end."""
        return self.data.count(b"\n") + (not self.data.endswith(b"\n"))


def cut_blocks(
    stream: Stream, path: Path, size: int | None = None, *, is_complete: bool = False
) -> Iterator[LineBlock]:
    """Cut a stream into blocks of whole lines.

    Args:
        stream: text.
        path: the file, for messages.
        size: the bytes per read. The default is `MAX_BLOCK_BYTES`.
        is_complete: whether a checksum proves that the text is complete. If not, a last line without an end
            of line may be cut, and is not a row.

    Raises:
        BadFileError: the stream is not text.
    """
    size = size or MAX_BLOCK_BYTES
    buffer, line, ended = b"", 1, False
    while not ended:
        chunk = read_all(stream, size)
        ended = len(chunk) < size
        if line == 1 and not buffer:
            chunk = _check_start(chunk, path)
        buffer += chunk
        cut = len(buffer) if ended and is_complete else buffer.rfind(b"\n") + 1
        for block, count in _split_block(buffer[:cut], line):
            yield block
            line += count
        buffer = buffer[cut:]
        if len(buffer) > MAX_LINE_BYTES:
            yield _too_long_block(buffer, line)
            buffer, line = _rest_after_line(stream, size), line + 1
    if buffer:
        yield LineBlock(buffer, line, UNTERMINATED_REASON if buffer.strip() else None)


def _check_start(chunk: bytes, path: Path) -> bytes:
    if detect_file_kind(chunk) != TEXT:
        raise BadFileError(
            f"{make_printable_path(path)}: contains another {detect_file_kind(chunk)} file inside: "
            "unpack it first"
        )
    reject_unsupported(path, chunk[:HEAD_BYTES])
    return chunk.removeprefix(_UTF8_MARK)


def _split_block(data: bytes, line: int) -> Iterator[tuple[LineBlock, int]]:
    """Split whole lines into blocks of bounded size, each with its number of lines.

    A line that is too long gets a block of its own.
    """
    at = 0
    for start, end in [*_find_long_lines(data), (len(data), len(data))]:
        for part in _halve_lines(data[at:start]):
            block = LineBlock(part, line)
            yield block, block.count_lines()
            line += block.count_lines()
        if start < end:
            yield _too_long_block(data[start : min(end, start + _RAW_BYTES)], line), 1
            line += 1
        at = end


def _find_long_lines(data: bytes) -> Iterator[tuple[int, int]]:
    """Find the start and end of each line longer than `MAX_LINE_BYTES`.

    Such a line fills at least one whole stripe of half that length. Only stripes without an end of line
    therefore need a search.
    """
    stripe, done = MAX_LINE_BYTES // 2, 0
    for start in range(0, len(data), stripe):
        if start < done or data.find(b"\n", start, start + stripe) >= 0:
            continue
        begin = data.rfind(b"\n", 0, start) + 1
        done = data.find(b"\n", start) + 1 or len(data)
        if done - begin > MAX_LINE_BYTES:
            yield begin, done


def _halve_lines(data: bytes) -> Iterator[bytes]:
    """Split lines into parts of at most `MAX_BLOCK_LINES`."""
    if not data:
        return
    if data.count(b"\n") <= MAX_BLOCK_LINES:
        yield data
        return
    middle = len(data) // 2
    cut = data.rfind(b"\n", 0, middle) + 1 or data.find(b"\n", middle) + 1
    yield from _halve_lines(data[:cut])
    yield from _halve_lines(data[cut:])


def _too_long_block(data: bytes, line: int) -> LineBlock:
    return LineBlock(data[:_RAW_BYTES], line, f"is longer than {MAX_LINE_BYTES:,} bytes")


def _rest_after_line(stream: Stream, size: int) -> bytes:
    """Skip the rest of the current line, and read the bytes after its end. Empty after the last line."""
    while chunk := read_all(stream, size):
        if at := chunk.find(b"\n") + 1:
            return chunk[at:]
    return b""

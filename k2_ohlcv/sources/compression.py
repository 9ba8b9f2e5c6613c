"""Opens a landing file as a stream of decompressed bytes. The first bytes show plain text, gzip or zip.

A zip must contain exactly one file. Several files would make line numbers and generated ids ambiguous.
Folders, `__MACOSX` and `.CHECKSUM` files do not count. An archive inside an archive is rejected.
"""

import errno
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.domain.printable import make_printable, make_printable_path
from k2_ohlcv.sources.file_kinds import GZIP, HEAD_BYTES, ZIP, describe_unsupported, detect_file_kind

#: Errors of the machine, not of the file: no open files, memory or disk space left. A retry may succeed.
_MACHINE_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}


class Stream(Protocol):
    """A readable stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes. The result is empty at the end of the stream."""


def is_machine_error(error: BaseException) -> bool:
    """Whether a read error is caused by the machine and not by the file."""
    return isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS


def detect_kind(path: Path) -> str:
    """Detect the kind of a file from its first bytes.

    Raises:
        BadFileError: the file is missing, not a regular file, not readable, empty, or of an unsupported kind.
    """
    shown = make_printable_path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise BadFileError(f"{shown}: cannot be opened: it is not a regular file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        if is_machine_error(error):
            raise
        raise BadFileError(f"{shown}: cannot be opened: {error.strerror}") from error
    if not head:
        raise BadFileError(f"{shown}: the file is empty (0 bytes): download it again")
    reject_unsupported(path, head)
    return detect_file_kind(head)


#: Trades of exchanges unpack to 4 to 10 times their size. A bomb of zeros unpacks to 1,000 times.
MAX_UNPACKED_RATIO = 200
#: Bytes that every archive may unpack to. They harm nobody, and a small file may repeat one line.
MIN_UNPACKED_LIMIT = 64 * 1024 * 1024


def reject_unsupported(path: Path, head: bytes) -> None:
    """Reject a file of a known kind that ingestion does not support.

    Raises:
        BadFileError: the file is of such a kind.
    """
    if unsupported := describe_unsupported(head):
        kind, remedy = unsupported
        raise BadFileError(f"{make_printable_path(path)}: is {kind}, which is not supported: {remedy}")


class _GuardedStream:
    """A stream whose read errors name the file and the remedy. It ends with an error beyond its bound.

    Args:
        path: the file.
        stream: the unpacked bytes.
        limit: the most unpacked bytes; None for a file that is not packed.
    """

    def __init__(self, path: Path, stream: Any, limit: int | None) -> None:
        self._path = path
        self._stream = stream
        self._left = limit

    def read(self, size: int) -> bytes:
        with _convert_read_errors(self._path):
            part: bytes = self._stream.read(size)
        if self._left is not None:
            self._left -= len(part)
            if self._left < 0:
                raise BadFileError(
                    f"{make_printable_path(self._path)}: unpacks to more than {MAX_UNPACKED_RATIO} times its "
                    "size, which no file of trades does: if the file is right, unpack it first"
                )
        return part


@contextmanager
def _convert_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        if is_machine_error(error):
            raise
        reason = make_printable(error) or type(error).__name__  # an EOFError may have no text
        raise BadFileError(
            f"{make_printable_path(path)}: cannot be read to its end ({reason}): download it again"
        ) from error


@contextmanager
def open_decompressed(path: Path) -> Iterator[Stream]:
    """Open a file as a stream of decompressed bytes.

    Raises:
        BadFileError: the compression is broken, or a zip does not contain exactly one file. Damage further
            on in the file is found only when the stream is read, and so is an archive that unpacks to more
            than 200 times its size.
    """
    kind = detect_kind(path)
    with ExitStack() as stack:
        with _convert_read_errors(path):
            if kind == ZIP:
                archive = stack.enter_context(zipfile.ZipFile(path))
                stream = stack.enter_context(archive.open(_zip_member(path, archive)))
            elif kind == GZIP:
                file = stack.enter_context(pa.OSFile(str(path)))
                stream = stack.enter_context(pa.CompressedInputStream(file, "gzip"))
            else:
                stream = stack.enter_context(path.open("rb"))
        limit = max(MIN_UNPACKED_LIMIT, MAX_UNPACKED_RATIO * path.stat().st_size)
        yield _GuardedStream(path, stream, limit if kind in {ZIP, GZIP} else None)


def read_all(stream: Stream, size: int) -> bytes:
    """Read `size` bytes. The result is shorter only at the end of the stream."""
    parts = []
    while size > 0:
        part = stream.read(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _zip_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [
        info
        for info in archive.infolist()
        if not info.is_dir()
        and not info.filename.startswith("__MACOSX/")
        and not info.filename.endswith(".CHECKSUM")
    ]
    shown = make_printable_path(path)
    if len(members) != 1:
        names = ", ".join(make_printable(info.filename) for info in members[:5]) or "nothing"
        raise BadFileError(
            f"{shown}: a zip must contain exactly one file, this one contains {names}: unpack it first"
        )
    if members[0].flag_bits & 1:
        raise BadFileError(f"{shown}: {make_printable(members[0].filename)} is encrypted: unpack it first")
    return members[0]

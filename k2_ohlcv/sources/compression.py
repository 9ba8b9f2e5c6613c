"""A landing file as one stream of bytes, whatever wraps it: plain, gzip or zip, told by its first bytes.

A zip holds exactly one file (folders, `__MACOSX` and `.CHECKSUM` files apart): several would make line
numbers and made ids ambiguous. What is inside has to be text: wrapped archives are not unwrapped twice.
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

#: What this machine lacks while it reads: no fault of the file, and perhaps gone in a minute.
_MACHINE_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}


class Stream(Protocol):
    """What a file is read through."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, none at the end."""


def is_machine_error(error: BaseException) -> bool:
    """Whether an error of reading says something of this machine, and nothing of the file."""
    return isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS


def detect_kind(path: Path) -> str:
    """What the file is to be read as, from its first bytes.

    Raises:
        BadFileError: it is not there, not a regular file, not readable, empty, or of a kind that is not read.
    """
    shown = make_printable_path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise BadFileError(f"{shown}: cannot be opened: it is no regular file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        if is_machine_error(error):
            raise
        raise BadFileError(f"{shown}: cannot be opened: {error.strerror}") from error
    if not head:
        raise BadFileError(f"{shown}: the file is empty (0 bytes): fetch it again")
    reject_unsupported(path, head)
    return detect_file_kind(head)


def reject_unsupported(path: Path, head: bytes) -> None:
    """Refuse what is known to be neither a table of text nor one of the wrappings that are read.

    Raises:
        BadFileError: it is of such a kind.
    """
    if found := describe_unsupported(head):
        what, remedy = found
        raise BadFileError(f"{make_printable_path(path)}: is {what}, which is not read: {remedy}")


class _GuardedStream:
    """A stream whose errors of reading say which file broke off, and what to do."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path = path
        self._stream = stream

    def read(self, size: int) -> bytes:
        with _convert_read_errors(self._path):
            part: bytes = self._stream.read(size)
        return part


@contextmanager
def _convert_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        if is_machine_error(error):
            raise
        said = make_printable(error) or type(error).__name__  # the end of a file has no text
        raise BadFileError(
            f"{make_printable_path(path)}: cannot be read to its end ({said}): fetch it again"
        ) from error


@contextmanager
def open_decompressed(path: Path) -> Iterator[Stream]:
    """The unwrapped bytes of a file.

    Raises:
        BadFileError: the wrapping is cut or broken, or a zip does not hold exactly one file. What is
            behind shows only as it is read.
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
        yield _GuardedStream(path, stream)


def read_all(stream: Stream, size: int) -> bytes:
    """Exactly `size` bytes, or what is left where that is less."""
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
            f"{shown}: a zip has to hold exactly one file, this one holds {names}: unpack it first"
        )
    if members[0].flag_bits & 1:
        raise BadFileError(f"{shown}: {make_printable(members[0].filename)} is encrypted: unpack it first")
    return members[0]

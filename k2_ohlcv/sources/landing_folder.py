"""The landing folder: which of its files may be read, and why the others are not.

Only regular files below the landing folder are read. A link that leads out of it, and a name that is not
UTF-8, are refused by name. When files are read is for the sensor to say.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.domain.printable import is_utf8, make_printable, make_printable_path
from k2_ohlcv.sources.file_kinds import HEAD_BYTES, TEXT, describe_unsupported, detect_file_kind

#: Files that a copying program has not finished carry such names.
_UNFINISHED_SUFFIXES = {".tmp", ".part", ".partial"}


@dataclass(frozen=True)
class FolderListing:
    """What lies in a landing folder.

    Attributes:
        files: files to read, in a steady order.
        rejected: the printable path of a file or folder within the landing folder -> why it is not read.
    """

    files: tuple[Path, ...]
    rejected: Mapping[str, str]


def list_files(landing: Path) -> FolderListing:
    """The files of a landing folder, without hidden and unfinished ones. A missing folder is an empty one.

    Nothing in the folder makes this fail: an odd file or folder is refused, and the others are listed.
    """
    files: list[Path] = []
    refused: dict[str, str] = {}

    def add_unreadable(error: OSError) -> None:
        if Path(error.filename) != landing:
            name = Path(error.filename).relative_to(landing)
            refused[make_printable_path(name)] = f"the folder cannot be listed: {error.strerror}"

    for folder, folders, names in os.walk(landing, onerror=add_unreadable):
        inside = Path(folder).relative_to(landing)
        for name in [*folders, *names]:
            if name.startswith(".") or (name in names and Path(name).suffix in _UNFINISHED_SUFFIXES):
                continue
            reason = reject_reason(landing, inside / name)
            if reason:
                refused[make_printable_path(inside / name)] = reason
            elif name in names:
                files.append(landing / inside / name)
        folders[:] = [name for name in folders if not name.startswith(".") and is_utf8(name)]
    return FolderListing(tuple(sorted(files)), refused)


def reject_reason(landing: Path, name: Path) -> str | None:
    """Why a file or folder is not read, or None where it may be, or is gone meanwhile.

    Args:
        landing: the landing folder.
        name: the path within it.
    """
    if not is_utf8(name):
        return "its name is not UTF-8: rename it"
    path = landing / name
    try:
        if path.resolve().is_relative_to(landing.resolve()):
            return _special_file_kind(path)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, no permission, a zero byte
        return f"it cannot be looked at: {make_printable(getattr(error, 'strerror', None) or error)}"
    return "it lies outside the landing folder: copy it there"


def _special_file_kind(path: Path) -> str | None:
    """What a path is where that is neither a regular file nor a folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "it is a link to nothing: remove it" if path.is_symlink() else None
    if stat.S_ISDIR(mode):
        return "it is a link to a folder: copy the files there" if path.is_symlink() else None
    return None if stat.S_ISREG(mode) else "it is no regular file: remove it"


def find_file(landing: Path, name: str) -> Path | None:
    """The landing file of that name, or None where there is none (any more).

    Args:
        landing: the landing folder.
        name: `EXCHANGE/SYMBOL/file`, as a person or a sensor gave it.

    Raises:
        BadFileError: the name leads elsewhere, or to what is no file to read.
    """
    if reason := reject_reason(landing, Path(name)):
        raise BadFileError(f"{make_printable(name)}: {reason}")
    path = landing / name
    return path if path.is_file() else None


def is_unterminated(path: Path) -> bool:
    """Whether a file is plain text that does not end in an end of line. What cannot be opened is not."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            return False
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            if not head or detect_file_kind(head) != TEXT or describe_unsupported(head):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False

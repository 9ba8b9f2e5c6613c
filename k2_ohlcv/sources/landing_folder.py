"""Lists the files of the landing folder, with a reason for each file that is rejected.

Only regular files inside the landing folder are read. Links to other folders and names that are not UTF-8 are
rejected. The sensor decides when a file is read.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from k2_ohlcv.domain.errors import BadFileError
from k2_ohlcv.domain.printable import is_utf8, make_printable, make_printable_path
from k2_ohlcv.sources.file_kinds import HEAD_BYTES, TEXT, describe_unsupported, detect_file_kind

#: Suffixes of files that a program is still copying.
_UNFINISHED_SUFFIXES = {".tmp", ".part", ".partial"}


@dataclass(frozen=True)
class FolderListing:
    """The contents of a landing folder.

    Attributes:
        files: the readable files, in a stable order.
        rejected: printable path of a file or folder, relative to the landing folder -> reason.
    """

    files: tuple[Path, ...]
    rejected: Mapping[str, str]


def list_files(landing: Path) -> FolderListing:
    """List the files of a landing folder. Hidden and unfinished files are left out.

    A missing landing folder has no files. A file or folder that cannot be read is rejected, and the listing
    continues.
    """
    files: list[Path] = []
    rejected: dict[str, str] = {}

    def add_unreadable(error: OSError) -> None:
        if Path(error.filename) != landing:
            name = Path(error.filename).relative_to(landing)
            rejected[make_printable_path(name)] = f"the folder cannot be listed: {error.strerror}"

    for folder, folders, names in os.walk(landing, onerror=add_unreadable):
        inside = Path(folder).relative_to(landing)
        for name in [*folders, *names]:
            if name.startswith(".") or (name in names and Path(name).suffix in _UNFINISHED_SUFFIXES):
                continue
            reason = reject_reason(landing, inside / name)
            if reason:
                rejected[make_printable_path(inside / name)] = reason
            elif name in names:
                files.append(landing / inside / name)
        folders[:] = [name for name in folders if not name.startswith(".") and is_utf8(name)]
    return FolderListing(tuple(sorted(files)), rejected)


def reject_reason(landing: Path, name: Path) -> str | None:
    """The reason why a file or folder is rejected. None if it can be read, or no longer exists.

    Args:
        landing: the landing folder.
        name: the path relative to the landing folder.
    """
    if not is_utf8(name):
        return "its name is not UTF-8: rename it"
    path = landing / name
    try:
        if path.resolve().is_relative_to(landing.resolve()):
            return _special_file_kind(path)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, no permission, a zero byte
        return f"it cannot be read: {make_printable(getattr(error, 'strerror', None) or error)}"
    return f"it is outside the folder {make_printable(landing.name)}: copy it there"


def _special_file_kind(path: Path) -> str | None:
    """Describe a path that is neither a regular file nor a folder. None for these two kinds."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "it is a link to nothing: remove it" if path.is_symlink() else None
    if stat.S_ISDIR(mode):
        return "it is a link to a folder: copy the files there" if path.is_symlink() else None
    return None if stat.S_ISREG(mode) else "it is not a regular file: remove it"


def find_file(landing: Path, name: str) -> Path | None:
    """Find a landing file by name. None if no such file exists (any more).

    Args:
        landing: the landing folder.
        name: `EXCHANGE/SYMBOL/file`, from a user or a sensor.

    Raises:
        BadFileError: the path is outside the landing folder, or is not a readable file.
    """
    if reason := reject_reason(landing, Path(name)):
        raise BadFileError(f"{make_printable(name)}: {reason}")
    path = landing / name
    return path if path.is_file() else None


def is_unterminated(path: Path) -> bool:
    """Whether a file is plain text without an end of line at the end. False if it cannot be opened."""
    try:
        if not path.is_file():  # opening a pipe would block
            return False
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            if not head or detect_file_kind(head) != TEXT or describe_unsupported(head):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False

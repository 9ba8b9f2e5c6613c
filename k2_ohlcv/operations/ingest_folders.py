"""Which files of a folder are to be ingested, and why others are not. Reading and adding is in `ingest`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k2_ohlcv.domain.errors import UsageError
from k2_ohlcv.domain.printable import make_printable, make_printable_path
from k2_ohlcv.sources.formats.binance import archive_symbol
from k2_ohlcv.sources.landing_folder import list_files
from k2_ohlcv.sources.market import Market, market_from_folder

#: Files that exchanges publish beside archives, without trades.
_CHECKSUM_SUFFIXES = {".CHECKSUM", ".checksum", ".md5", ".sha256"}


@dataclass
class ChosenFiles:
    """The files of a call.

    Attributes:
        files: the files to ingest.
        folders: the folder in which a file was found, if the caller named a folder.
        skipped: files of folders that cannot be ingested, with the reason.
        checksums: the number of checksum files in folders. They are left out.
    """

    files: list[Path] = field(default_factory=list)
    folders: dict[Path, Path] = field(default_factory=dict)
    skipped: dict[Path, str] = field(default_factory=dict)
    checksums: int = 0


def choose_files(paths: Sequence[Path]) -> ChosenFiles:
    """The files among some paths, and those in the folders among them, nested ones too.

    Hidden and unfinished files of folders are left out.

    Raises:
        UsageError: a folder has no files to ingest.
    """
    chosen = ChosenFiles()
    for path in paths:
        if path.is_dir():
            _add_folder(chosen, path.absolute())
        else:
            chosen.files.append(path.absolute())
    return chosen


def _add_folder(chosen: ChosenFiles, folder: Path) -> None:
    listing = list_files(folder)
    checksums = [path for path in listing.files if path.suffix in _CHECKSUM_SUFFIXES]
    mixed = _mixed_kinds(folder, listing.files)
    files = [path for path in listing.files if path not in mixed and path not in set(checksums)]
    if not files and not mixed and not listing.rejected:
        raise UsageError(
            f"{make_printable_path(folder)}: the folder has no files of trades. Hidden and unfinished files "
            "and checksums do not count"
        )
    chosen.files += files
    chosen.folders |= dict.fromkeys(files, folder)
    chosen.skipped |= mixed
    chosen.skipped |= {
        folder / name: f"{make_printable_path(folder / name)}: {reason}"
        for name, reason in listing.rejected.items()
    }
    chosen.checksums += len(checksums)


def _mixed_kinds(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """Archives of markets that have both `trades` and `aggTrades`. Their sum would count each trade twice."""
    markets: dict[Market, dict[str, list[Path]]] = {}
    for path in files:
        if named := archive_symbol(path):
            market = market_from_folder(path, folder, Market(None, named[0]))
            markets.setdefault(market, {}).setdefault(named[1], []).append(path)
    return {
        path: f"{make_printable_path(path)}: the folder has trades and aggTrades of "
        f"{make_printable(market.symbol)}, which have different ids: ingest only one of the two"
        for market, kinds in markets.items()
        if len(kinds) > 1
        for paths in kinds.values()
        for path in paths
    }

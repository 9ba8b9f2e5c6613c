"""Which files really went and came, once compactions and dropped partitions are followed."""

from datetime import UTC, datetime

from pyiceberg.manifest import DataFile, DataFileContent

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.lake.metadata.rewritten_files import RewrittenFiles

SPAN = Interval(datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC) + DAY)


def file(path: str) -> LiveFile:
    return LiveFile(DataFile.from_args(content=DataFileContent.DATA, file_path=path), SPAN)


def moves(before: str, after: str, *steps: tuple[str, str]) -> RewrittenFiles:
    """Moves of one-letter files: each step says what a snapshot removed, and what it wrote of it."""
    made = RewrittenFiles(before=set(before), after=set(after))
    for removed, written in steps:
        made.sources |= {path: [file(p) for p in removed] for path in written}
        made.results |= {path: [file(p) for p in written] for path in removed}
    return made


def settled(made: RewrittenFiles) -> tuple[str, str]:
    """The files that went and came, as letters."""
    gone = [file(p) for p in sorted(made.before - made.after)]
    come = [file(p) for p in sorted(made.after - made.before)]
    went, came = made.exclude_rewrites(gone, come)
    return "".join(f.path for f in went), "".join(f.path for f in came)


def test_what_only_moved_neither_went_nor_came() -> None:
    assert settled(moves("ab", "c", ("ab", "c"))) == ("", "")
    assert settled(moves("ab", "cd", ("ab", "cd"))) == ("", "")


def test_files_that_no_snapshot_moved_went_and_came() -> None:
    assert settled(moves("ax", "cy", ("a", "c"))) == ("x", "y")


def test_rows_that_moved_twice_are_followed_to_their_first_file() -> None:
    assert settled(moves("ab", "d", ("ab", "c"), ("c", "d"))) == ("", "")


def test_what_came_and_was_then_moved_came_in_its_first_file() -> None:
    """The file `x` is compacted together with old ones: its rows came, and theirs did not."""
    assert settled(moves("ab", "c", ("abx", "c"))) == ("", "x")


def test_where_one_of_the_results_is_gone_all_of_its_sources_count() -> None:
    assert settled(moves("ab", "c", ("ab", "cd"))) == ("ab", "c")


def test_dropped_partitions_did_not_go() -> None:
    assert settled(moves("ab", "b", ("a", ""))) == ("", "")


def test_what_was_moved_and_then_dropped_did_not_go() -> None:
    assert settled(moves("ab", "d", ("ab", "cd"), ("c", ""))) == ("", "")

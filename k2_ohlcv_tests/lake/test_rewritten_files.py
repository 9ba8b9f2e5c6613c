"""Which files were removed and added in effect, after compactions and dropped partitions are followed."""

from datetime import UTC, datetime

from pyiceberg.manifest import DataFile, DataFileContent

from k2_ohlcv.domain.intervals import DAY, Interval
from k2_ohlcv.lake.metadata.files import LiveFile
from k2_ohlcv.lake.metadata.rewritten_files import RewrittenFiles

SPAN = Interval(datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC) + DAY)


def file(path: str) -> LiveFile:
    return LiveFile(DataFile.from_args(content=DataFileContent.DATA, file_path=path), SPAN)


def rewrites(before: str, after: str, *steps: tuple[str, str]) -> RewrittenFiles:
    """Rewrites of one-letter files. Each step has the files that a snapshot removed and wrote."""
    rewritten = RewrittenFiles(before=set(before), after=set(after))
    for removed, written in steps:
        rewritten.sources |= {path: [file(p) for p in removed] for path in written}
        rewritten.results |= {path: [file(p) for p in written] for path in removed}
    return rewritten


def changed_files(rewritten: RewrittenFiles) -> tuple[str, str]:
    """The files that were removed and added in effect, as letters."""
    removed = [file(p) for p in sorted(rewritten.before - rewritten.after)]
    added = [file(p) for p in sorted(rewritten.after - rewritten.before)]
    changed_before, changed_after = rewritten.exclude_rewrites(removed, added)
    return "".join(f.path for f in changed_before), "".join(f.path for f in changed_after)


def test_rewritten_files_are_neither_removed_nor_added() -> None:
    """Their rows are in the result."""
    assert changed_files(rewrites("ab", "c", ("ab", "c"))) == ("", "")
    assert changed_files(rewrites("ab", "cd", ("ab", "cd"))) == ("", "")


def test_other_files_are_removed_and_added() -> None:
    """Files outside the rewrite count."""
    assert changed_files(rewrites("ax", "cy", ("a", "c"))) == ("x", "y")


def test_two_rewrites_are_followed_to_the_first_file() -> None:
    """The file between both rewrites is in neither snapshot."""
    assert changed_files(rewrites("ab", "d", ("ab", "c"), ("c", "d"))) == ("", "")


def test_an_added_file_that_was_rewritten_counts_as_added() -> None:
    """File `x` is compacted with older files. Only the rows of `x` are new."""
    assert changed_files(rewrites("ab", "c", ("abx", "c"))) == ("", "x")


def test_a_removed_result_makes_every_source_count() -> None:
    """The rows of the other result count as well."""
    assert changed_files(rewrites("ab", "c", ("ab", "cd"))) == ("ab", "c")


def test_dropped_partitions_are_not_removed_files() -> None:
    """Retention removed them, so their windows are not dirty."""
    assert changed_files(rewrites("ab", "b", ("a", ""))) == ("", "")


def test_rewritten_and_dropped_files_are_not_removed_files() -> None:
    """Retention dropped one result of a rewrite."""
    assert changed_files(rewrites("ab", "d", ("ab", "cd"), ("c", ""))) == ("", "")

"""Appends rows against exactly the snapshot in which they were checked for duplicates.

PyIceberg would append to the snapshot that is current at the commit. Another writer may have added the same
rows by then. Each attempt therefore loads the table, selects the new rows and commits against that snapshot.
A conflict starts over from the load. The check for duplicates is in `dedupe`.
"""

import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.expressions import And, BooleanExpression, GreaterThanOrEqual, In, LessThanOrEqual, Reference
from pyiceberg.expressions.literals import literal
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation

from k2_ohlcv.domain.errors import CommitConflictError
from k2_ohlcv.lake.commit import TableCommit, commit_change, remove_uncommitted_files
from k2_ohlcv.lake.data_files import write_files
from k2_ohlcv.lake.retry import retry_conflicts

#: Attempts of one append. One writer of a large file then succeeds beside many writers of small files.
MAX_APPEND_ATTEMPTS = 20


@dataclass
class _WrittenFiles:
    """Data files that no snapshot has yet, and the rows in them."""

    table_uuid: uuid.UUID
    rows: pa.Table
    files: list[DataFile]


class _Append:
    """One append over all its attempts. An attempt reuses the files of an earlier one with the same rows."""

    def __init__(
        self,
        load: Callable[[], Table],
        find_new: Callable[[Table], pa.Table],
        protected: Callable[[Table], Collection[int]],
    ) -> None:
        self._load = load
        self._find_new = find_new
        self._protected = protected
        self._written: _WrittenFiles | None = None

    def commit(self, table: Table) -> Table:
        """Select the new rows, write their files and commit them against the given table."""
        rows = self._find_new(table)
        uuid_ = table.metadata.table_uuid
        if self._written and (self._written.table_uuid != uuid_ or not self._written.rows.equals(rows)):
            self.remove_files(table)
        if not rows.num_rows:
            return table
        self._written = self._written or _WrittenFiles(uuid_, rows, list(write_files(table, rows)))
        # Writing takes time. Tags and watermarks may be newer than the loaded table and protect snapshots.
        latest = self._load()
        if latest.metadata.table_uuid != uuid_:
            raise CommitFailedException("the table was replaced")
        change = TableCommit(
            files=tuple(self._written.files),
            has_reusable_files=True,
            operation=Operation.APPEND,
            protected=frozenset(self._protected(latest)),
        )
        return commit_change(table, change)

    def remove_files(self, table: Table) -> None:
        """Remove the written files, which no snapshot has."""
        if self._written:
            remove_uncommitted_files(table, self._written.files)
            self._written = None


def append_new(
    load: Callable[[], Table],
    find_new: Callable[[Table], pa.Table],
    protected: Callable[[Table], Collection[int]] = lambda _: (),
) -> Table:
    """Append new rows in one snapshot. Without new rows nothing is committed.

    Args:
        load: loads the current version of the table from the catalog.
        find_new: the rows that the given table does not have, in the table's schema and sort order.
        protected: snapshots that the commit may not expire; called immediately before the commit.

    Returns:
        The table that has the rows.

    Raises:
        CommitConflictError: other writers won every attempt.
    """
    append = _Append(load, find_new, protected)
    try:
        return retry_conflicts(
            load,
            append.commit,
            attempts=MAX_APPEND_ATTEMPTS,
            advice="no row of this batch was added. Run it again: stored rows are not added twice",
        )
    except CommitConflictError:
        append.remove_files(load())
        raise


def is_one_of(column: str, values: Iterable[str]) -> BooleanExpression:
    """A row filter: the column has one of the values."""
    # pydantic's generated signature hides the real signature of In
    return In(Reference(column), {literal(value) for value in values})  # type: ignore[call-arg,arg-type]


def is_between(column: str, least: str | int, greatest: str | int) -> BooleanExpression:
    """A row filter: the column lies between two values, both included."""
    term = Reference(column)
    return And(
        GreaterThanOrEqual(term=term, value=literal(least)),
        LessThanOrEqual(term=term, value=literal(greatest)),
    )

"""How many partitions a run of a backfill has: as many as never exceed the rows of a run."""

from hypothesis import given
from hypothesis import strategies as st

from k2_ohlcv.domain.run_size import MAX_RUN_PARTITIONS, MAX_RUN_TRADES, months_of_days, partitions_per_run


@given(st.lists(st.integers(0, 100), max_size=40), st.integers(1, 500))
def test_no_run_has_more_rows_than_allowed_and_one_more_partition_would(
    rows: list[int], max_rows: int
) -> None:
    """Wherever a run begins. A single partition that is too large has a run of its own."""
    size = partitions_per_run(rows, max_rows)

    def largest(length: int) -> int:
        return max((sum(rows[i : i + length]) for i in range(len(rows))), default=0)

    assert size >= 1
    assert size == 1 or largest(size) <= max_rows
    assert size == MAX_RUN_PARTITIONS or largest(size + 1) > max_rows


def test_ten_years_of_tiny_days_are_one_run() -> None:
    """Rows bound a run and not partitions."""
    assert partitions_per_run([30] * 3_652) >= 3_652


def test_busy_days_bound_the_runs() -> None:
    """Ten million trades a day, also if only the last month is busy."""
    busy = [10_000_000] * 31
    assert partitions_per_run([30] * 3_000 + busy) == MAX_RUN_TRADES // 10_000_000
    assert partitions_per_run([2 * MAX_RUN_TRADES]) == 1
    assert partitions_per_run([]) == MAX_RUN_PARTITIONS


def test_days_as_months() -> None:
    assert [months_of_days(days) for days in (1, 31, 61, 62, 365)] == [1, 1, 1, 2, 11]

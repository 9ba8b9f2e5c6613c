"""How many partitions one run of a backfill has, from the rows of each partition.

Dagster cuts a backfill into runs of equally many partitions. A run of many rows has commits of its own, which
`memory` bounds.
"""

from collections.abc import Sequence

#: The maximum number of trades of one run. The start of a run, some seconds, is then little beside its work.
MAX_RUN_TRADES = 250_000_000
#: The maximum number of partitions of one run: ten years of days. Dagster records an event for each.
MAX_RUN_PARTITIONS = 4_000
#: The days of one run as long as nothing is measured.
DEFAULT_RUN_DAYS = 31


def months_of_days(days: int) -> int:
    """The number of whole months in a number of days; at least one."""
    return max(1, days // 31)


def partitions_per_run(rows: Sequence[float], max_rows: float = MAX_RUN_TRADES) -> int:
    """The most consecutive partitions that nowhere have more rows than a run may have.

    Args:
        rows: the rows of each partition, without a gap.
        max_rows: the rows that a run may have. A partition with more has a run of its own.
    """
    most, start, total = MAX_RUN_PARTITIONS, 0, 0.0
    for end, count in enumerate(rows):
        total += count
        while total > max_rows and start <= end:
            most = min(most, max(1, end - start))
            total -= rows[start]
            start += 1
    return most

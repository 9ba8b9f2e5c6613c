"""Sums of window counts, and their names in JSON, metadata and text."""

from k2_ohlcv.domain.window_counts import WindowCounts

COUNTS = WindowCounts(added=1, changed=20, removed=300, unchanged=4000)


def test_counts_are_added_by_kind() -> None:
    assert COUNTS + WindowCounts(1, 1, 1, 1) == WindowCounts(2, 21, 301, 4001)
    assert sum([COUNTS], WindowCounts()) == COUNTS


def test_unchanged_windows_are_not_written() -> None:
    assert COUNTS.written == 321
    assert WindowCounts(unchanged=7).written == 0


def test_counts_have_the_documented_names() -> None:
    """README names the JSON fields. Charts in the UI use the metadata keys."""
    assert COUNTS.as_json() == {"added": 1, "changed": 20, "removed": 300, "unchanged": 4000}
    assert COUNTS.as_metadata() == {
        "windows_added": 1,
        "windows_changed": 20,
        "windows_removed": 300,
        "windows_unchanged": 4000,
    }
    assert str(COUNTS) == "1 windows added, 20 windows changed, 300 windows removed, 4,000 windows unchanged"


def test_counts_are_read_back_from_metadata() -> None:
    """Values may be numbers or text, as in Dagster. Other keys are ignored, missing ones are zero."""
    assert WindowCounts.from_metadata({**COUNTS.as_metadata(), "seconds": 1.5}) == COUNTS
    assert WindowCounts.from_metadata({"windows_changed": "3"}) == WindowCounts(changed=3)

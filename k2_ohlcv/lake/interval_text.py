"""Moments and intervals as ISO 8601 text, in the form that a snapshot's summary has.

The summary itself is in `watermark`.
"""

from datetime import datetime

from k2_ohlcv.domain.intervals import Interval


def format_moment(moment: datetime | None) -> str | None:
    """A moment as text; None stays None."""
    return moment.isoformat() if moment else None


def parse_moment(text: str | None) -> datetime | None:
    """The moment of a text; None where the text is missing or empty.

    Raises:
        ValueError: the text is no moment.
    """
    return datetime.fromisoformat(text) if text else None


def format_interval(interval: Interval) -> str:
    """An interval as its start and end, with a slash between."""
    return f"{interval.start.isoformat()}/{interval.end.isoformat()}"


def parse_interval(text: str) -> Interval:
    """The interval of a text.

    Raises:
        ValueError: the text is no interval.
    """
    start, _, end = text.partition("/")
    return Interval(datetime.fromisoformat(start), datetime.fromisoformat(end))

"""Progress messages for an interactive user. They are shown and never stored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_progress: ContextVar[Callable[[str], None] | None] = ContextVar("k2_progress", default=None)


def report_progress(message: str) -> None:
    """Show what happens now, if a caller asked for progress."""
    if show := _progress.get():
        show(message)


@contextmanager
def show_progress(show: Callable[[str], None]) -> Iterator[None]:
    """Send progress messages inside this context to `show`."""
    token = _progress.set(show)
    try:
        yield
    finally:
        _progress.reset(token)

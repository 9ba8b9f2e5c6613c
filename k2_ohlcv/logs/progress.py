"""Progress for people who wait. It is shown, never kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_progress: ContextVar[Callable[[str], None] | None] = ContextVar("k2_progress", default=None)


def report_progress(message: str) -> None:
    """Tell who waits, if anyone does, what is being done now."""
    if show := _progress.get():
        show(message)


@contextmanager
def show_progress(show: Callable[[str], None]) -> Iterator[None]:
    """Show the progress of what is called inside."""
    token = _progress.set(show)
    try:
        yield
    finally:
        _progress.reset(token)

"""Keeps pandas out of commands that read metadata only. PyArrow would load it, in a third of their time.

PyArrow loads pandas when it first makes a value, to recognise pandas' own types. Nothing here gives it any.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _NoPandas:
    """A finder that lets `import pandas` fail."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        if name == "pandas":
            raise ImportError("pandas is not needed here", name=name)


@contextmanager
def skip_pandas() -> Iterator[None]:
    """Let PyArrow find no pandas while the context is open. PyArrow does not look again.

    Other libraries may import pandas afterwards.
    """
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def import_pyarrow() -> None:
    """Import PyArrow's parts that PyIceberg needs, without pandas."""
    with skip_pandas():
        import pyarrow.dataset  # noqa: F401

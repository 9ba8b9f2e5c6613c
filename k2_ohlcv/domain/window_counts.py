"""What became of windows, in numbers. Reports, run metadata and commands all use these counts."""

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass

#: Names in run metadata begin so, as a run also counts trades.
_PREFIX = "windows_"


@dataclass(frozen=True)
class WindowCounts:
    """Windows by what became of them.

    Attributes:
        added: windows that were not there before.
        changed: windows whose values changed.
        removed: rows that had no trades behind them, were off the grid, or repeated a key.
        unchanged: windows that were right already.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0

    def __add__(self, other: "WindowCounts") -> "WindowCounts":
        return WindowCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def written(self) -> int:
        """Windows that are now otherwise than before."""
        return self.added + self.changed + self.removed

    def as_json(self) -> dict[str, int]:
        """The counts under their own names."""
        return asdict(self)

    def as_metadata(self) -> dict[str, int]:
        """The counts as metadata of a run."""
        return {f"{_PREFIX}{name}": count for name, count in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> "WindowCounts":
        """The counts that metadata of a run has; zero where it has none."""
        return cls(**{name: int(str(metadata.get(f"{_PREFIX}{name}", 0))) for name in asdict(cls())})

    def __str__(self) -> str:
        """The counts as a line for people."""
        return ", ".join(f"{count:,} windows {name}" for name, count in asdict(self).items())

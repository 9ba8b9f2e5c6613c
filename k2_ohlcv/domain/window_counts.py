"""Counts of windows by outcome, for reports, run metadata and commands. Counts of trades are elsewhere."""

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass

#: Prefix of the names in run metadata, which also has counts of trades.
_PREFIX = "windows_"


@dataclass(frozen=True)
class WindowCounts:
    """Counts of windows by outcome.

    Attributes:
        added: new windows.
        changed: windows with changed values.
        removed: deleted rows: without trades, off the window grid, or with a duplicate key.
        unchanged: windows that already had the right values.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0

    def __add__(self, other: "WindowCounts") -> "WindowCounts":
        return WindowCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def written(self) -> int:
        """The number of added, changed and removed windows."""
        return self.added + self.changed + self.removed

    def as_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)

    def as_metadata(self) -> dict[str, int]:
        """Return the counts as metadata of a run."""
        return {f"{_PREFIX}{name}": count for name, count in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> "WindowCounts":
        """Read the counts from the metadata of a run. A missing count is zero."""
        return cls(**{name: int(str(metadata.get(f"{_PREFIX}{name}", 0))) for name in asdict(cls())})

    def __str__(self) -> str:
        """Return the counts as one line for people."""
        return ", ".join(f"{count:,} windows {name}" for name, count in asdict(self).items())

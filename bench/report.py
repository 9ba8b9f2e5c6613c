"""The measurements as one Markdown table, for the terminal and for the README."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.engines import OTHER_ENGINES, OWN_ENGINES, SPARK_MERGE
from bench.job import Measurement

GB = 10**9
_MB = 10**6


@dataclass(frozen=True)
class Goal:
    """A goal: its text, the measured value, and whether the value meets the goal."""

    text: str
    measured: str
    is_met: bool

    def __str__(self) -> str:
        return f"{self.text}: {self.measured}, {'met' if self.is_met else 'MISSED'}"


@dataclass(frozen=True)
class Row:
    """One line of the table: the work, its number of trades, and the measurement of each engine."""

    work: str
    trades: int
    measured: Mapping[str, Measurement]
    goals: Sequence[Goal] = field(default_factory=tuple)


def median_seconds(measured: Measurement) -> float:
    """The median of the seconds of all warm runs."""
    return statistics.median(measured.seconds)


def time_ratio(measured: Mapping[str, Measurement]) -> float | None:
    """The project's time divided by that of the fastest other engine; None without another engine."""
    other_times = [
        median_seconds(measured[name]) for name in (*OTHER_ENGINES, SPARK_MERGE) if name in measured
    ]
    return median_seconds(measured[OWN_ENGINES]) / min(other_times) if other_times else None


def speed_goal(measured: Mapping[str, Measurement]) -> Goal:
    """The goal to be at least as fast as the faster of the other engines."""
    times = time_ratio(measured)
    assert times is not None
    return Goal("no slower than the faster of the two", f"{times:.2f} times", times <= 1)


def format_markdown(rows: Sequence[Row], environment: Sequence[str], title: str) -> str:
    """Format the report."""
    names = [
        OWN_ENGINES,
        *OTHER_ENGINES,
        *([SPARK_MERGE] if any(SPARK_MERGE in row.measured for row in rows) else []),
    ]
    header = [
        "work",
        "trades",
        *(f"{n}, s" for n in names),
        f"{OWN_ENGINES}, trades/s",
        "ratio",
        "processor, s",
        "memory, MB",
        "goal",
    ]
    right = "---:"
    compared = any(name in row.measured for row in rows for name in OTHER_ENGINES)
    lines = [
        f"**{title}**",
        "",
        *(f"- {line}" for line in environment),
        f"- seconds: median (fastest to slowest) of warm runs; ratio: {OWN_ENGINES} over the "
        "fastest of the others",
        "- processor: median of the processor time of those runs, all threads; other work disturbs it less",
        f"- memory: peak of a new process in its first run, {' / '.join(names)}",
        *(
            [f"- the candles of {', '.join([OWN_ENGINES, *OTHER_ENGINES])} were equal in every column"]
            if compared
            else []
        ),
        "",
        _line(header),
        _line(["---", *([right] * (len(header) - 2)), "---"]),
        *(_line(_row_cells(row, names)) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _row_cells(row: Row, names: Sequence[str]) -> list[str]:
    times = time_ratio(row.measured)
    return [
        row.work,
        f"{row.trades:,}",
        *(_seconds(row.measured.get(name)) for name in names),
        f"{row.trades / median_seconds(row.measured[OWN_ENGINES]):,.0f}",
        "-" if times is None else f"{times:.2f}",
        _cells_of_engines(row, names, lambda m: f"{statistics.median(m.cpu):.2f}"),
        _cells_of_engines(row, names, lambda m: f"{m.peak / _MB:,.0f}"),
        "; ".join(map(str, row.goals)) or "-",
    ]


def _cells_of_engines(row: Row, names: Sequence[str], show: Callable[[Measurement], str]) -> str:
    return " / ".join(show(row.measured[name]) if name in row.measured else "-" for name in names)


def _seconds(measured: Measurement | None) -> str:
    if measured is None:
        return "-"
    return f"{median_seconds(measured):.2f} ({min(measured.seconds):.2f} to {max(measured.seconds):.2f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

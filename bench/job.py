"""What a contender is told to do, and what it answers: values that travel between processes as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, Self

from k2_ohlcv.domain.intervals import Interval, from_micros, to_micros
from k2_ohlcv.domain.timeframe import Timeframe, find_timeframe


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        home: the lake's `K2_HOME`.
        files: what to read: data files of the trades table, or a landing file.
        tables: names of the candle tables to make.
        start: the interval's first moment, in microseconds since the epoch.
        end: its end, likewise.
        again: do it upon what is there; else everything that it makes is removed first, unmeasured.
        out: the folder for results that are not in the lake.
    """

    home: str
    files: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    start: int = 0
    end: int = 0
    again: bool = False
    out: str = ""

    @property
    def timeframes(self) -> list[Timeframe]:
        """The candle tables, from the shortest windows to the longest."""
        return [find_timeframe(name) for name in self.tables]

    @property
    def interval(self) -> Interval:
        """The moments whose trades count."""
        return Interval(from_micros(self.start), from_micros(self.end))

    def path(self, table: Timeframe) -> Path:
        """Where a contender without a lake writes a table."""
        return Path(self.out) / f"{table.name}.parquet"

    def to_json(self) -> str:
        """This job as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The job of a line."""
        values = json.loads(line)
        return cls(**{**values, "files": tuple(values["files"]), "tables": tuple(values["tables"])})


def candle_job(home: Path, files: Sequence[str], tables: Sequence[str], interval: Interval, out: Path) -> Job:
    """The job of making candle tables of an interval."""
    start, end = to_micros(interval.start), to_micros(interval.end)
    return Job(str(home), tuple(files), tuple(tables), start, end, out=str(out))


class BenchEngine(Protocol):
    """One engine, held open for many jobs in a process of its own."""

    def prepare(self, job: Job) -> None:
        """What must be so before the job; not measured."""

    def run(self, job: Job) -> None:
        """The job; measured."""


@dataclass(frozen=True)
class Run:
    """One run: seconds by the clock and of processors, and the most bytes that its process has held."""

    seconds: float
    cpu: float
    peak: int


@dataclass
class Measurement:
    """What came of one contender's runs of one job.

    Attributes:
        seconds: of each warm run, by the clock.
        cpu: seconds of processor time in each, over all threads: other work on the machine disturbs it less.
        peak: bytes of memory that a fresh process held at most, up to the end of its first run.
    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0

    def add(self, run: "Run", *, first: bool) -> None:
        """Take a run in: of the first its memory, of the others their times."""
        if first:
            self.peak = run.peak
        else:
            self.seconds.append(run.seconds)
            self.cpu.append(run.cpu)
